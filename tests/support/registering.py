"""How tests register users and send requests as them."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from uuid_utils.compat import uuid7

from apps.users.models import Profile
from apps.users.use_cases import ChangeUser, RegisterUser
from chassis.database.group_commit import Work
from chassis.database.transaction import transaction
from events.base import Causation
from tests.support.harness import RunningService

PASSWORD = "correct horse"


def an_address() -> str:
    return f"{secrets.token_hex(8)}@example.org"


def a_registration(**fields: Any) -> dict[str, Any]:
    return {"email": an_address(), "password": PASSWORD, "name": "Ada Lovelace"} | fields


def a_command(email: str) -> RegisterUser:
    return RegisterUser(Profile(email, "Ada", "en"), "no hash", Causation(str(uuid7())))


async def together(
    users: RunningService, use_case: Work[Any, Any], commands: Sequence[RegisterUser | ChangeUser]
) -> Sequence[Any]:
    """Execute commands in one transaction, as a group commit does, and wait until their events are published."""
    async with transaction(users.service.database.pool) as tx:
        results = await use_case(tx, commands)
    users.service.relay.wake()
    await users.is_quiet()
    return results


@asynccontextmanager
async def a_user_of(users: RunningService, **fields: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A registered user's client; `id_of` returns their id."""
    registration = a_registration(**fields)
    async with users.http() as http:
        answer = await http.post("/user/register", json=registration)
        assert answer.status_code == 201, answer.text
        http.headers["Authorization"] = f"Bearer {await a_token(http, registration['email'])}"
        http.headers["X-Test-User"] = answer.json()["userId"]
        yield http


def id_of(http: httpx.AsyncClient) -> str:
    return http.headers["X-Test-User"]


async def a_token(http: httpx.AsyncClient, email: str, password: str = PASSWORD) -> str:
    answer = await http.post("/user/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["accessToken"]
    return token


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and the reason of a refusal."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    assert document["status"] == answer.status_code
    return answer.status_code, document["reason"]
