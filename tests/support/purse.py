"""What a user does with their account, over HTTP."""

from typing import Any

import httpx

from events.users import UserState
from tests.support.harness import RunningService


async def open_with(billing: RunningService, user: UserState, amount: str) -> None:
    """An account with money on it."""
    async with billing.http(user) as ada:
        await move(ada, user, "deposit", amount)


async def move(ada: httpx.AsyncClient, user: UserState, kind: str, amount: str) -> dict[str, Any]:
    answer = await ada.post(f"/account/{user.id}/{kind}", json={"amount": amount})
    assert answer.status_code == 201, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def got(ada: httpx.AsyncClient, path: str, **query: str) -> dict[str, Any]:
    answer = await ada.get(path, params=query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def balance(billing: RunningService, user: UserState) -> str:
    async with billing.http(user) as ada:
        text: str = (await got(ada, f"/account/{user.id}"))["balance"]
        return text
