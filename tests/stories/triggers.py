"""Causes each event through the HTTP APIs, with retries until there is a response: services may die meanwhile."""

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx
from uuid_utils.compat import uuid7

from events.base import Event
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.notifications import NotificationFailed, NotificationSent
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import SigningKeyPublished, UserRegistered, UserUpdated
from tests.stories.customers import PASSWORD, Customer
from tests.stories.stack import Stack
from tests.support.eventually import eventually

PATIENCE_SECONDS: Final = 60.0


class Triggers:
    """Somebody who can make every event happen, again and again."""

    def __init__(self, chorus: Stack, ada: Customer, eve: Customer, operator: Customer) -> None:
        self._chorus = chorus
        self._ada = ada
        self._eve = eve
        self._operator = operator
        self._numbers = itertools.count(1)

    @classmethod
    async def of(cls, chorus: Stack) -> "Triggers":
        """Ada has money, and Eve an address that the mail server refuses."""
        ada = await chorus.customer("Ada Lovelace", deposit="100000.00")
        eve = await chorus.customer("Eve", deposit="100000.00")
        chorus.refused_for_good.add(eve.addresses[0])
        chorus.mail.refuse(eve.addresses[0], "550 no such mailbox")
        return cls(chorus, ada, eve, await chorus.operator())

    async def make(self, wanted: type[Event] | str) -> None:
        """Have an event of a kind happen, or an e-mail of a kind written. What follows from it is not waited for."""
        await _WAYS[wanted](self)

    async def register(self) -> None:
        about = {"email": f"{uuid7()}@example.com", "name": "Kim", "password": PASSWORD}
        stranger = Customer(self._chorus, "Kim", "en")
        # 409: it had been done when the response was lost.
        await _until_answered(stranger, "users", "POST", "/user/register", about, fine={201, 409})

    async def change(self) -> None:
        name = f"Ada {next(self._numbers)}"
        path = f"/user/{self._ada.id}"
        await _until_answered(self._ada, "users", "PATCH", path, {"name": name}, fine={200})

    async def move_money(self, way: str) -> None:
        path = f"/account/{self._ada.id}/{way}"
        await _until_answered(self._ada, "billing", "POST", path, {"amount": "1.00"}, fine={201})

    async def order(self, total: str = "1.00", customer: Customer | None = None) -> None:
        await (customer or self._ada).order_whatever_happens(total)

    async def cancel(self) -> None:
        """An order that has been paid."""
        order = await self._ada.order_whatever_happens("1.00")

        async def paid() -> None:
            path = f"/order/{order}"
            seen = await _until_answered(self._ada, "orders", "GET", path, fine={200})
            assert seen.json()["status"] == "paid"

        await eventually(paid, within=PATIENCE_SECONDS)
        path = f"/order/{order}/cancel"
        await _until_answered(self._ada, "orders", "POST", path, fine={200})

    async def write(self) -> None:
        body = {"userId": str(self._ada.id), "subject": "Hello", "body": "How are you?"}
        path = "/notification/send"
        await _until_answered(self._operator, "notifications", "POST", path, body, fine={202})

    async def announce(self) -> None:
        """The signing key once more, as users does at each start."""
        await self._chorus.journal.up_to_now()
        await self._chorus.publish_again(self._chorus.journal.events(SigningKeyPublished)[:1])


_WAYS: Final[Mapping[type[Event] | str, Callable[[Triggers], Awaitable[Any]]]] = {
    UserRegistered: Triggers.register,
    UserUpdated: Triggers.change,
    SigningKeyPublished: Triggers.announce,
    AccountOpened: Triggers.register,
    FundsDeposited: lambda who: who.move_money("deposit"),
    FundsWithdrawn: lambda who: who.move_money("withdraw"),
    OrderPlaced: Triggers.order,
    PaymentSucceeded: Triggers.order,
    PaymentRejected: lambda who: who.order("1000000.00"),
    PaymentRefunded: Triggers.cancel,
    OrderPaid: Triggers.order,
    OrderRejected: lambda who: who.order("1000000.00"),
    OrderCancelled: Triggers.cancel,
    NotificationSent: Triggers.order,
    NotificationFailed: lambda who: who.order("1.00", who._eve),
    "joy": Triggers.order,
    "sorrow": lambda who: who.order("1000000.00"),
    "refund": Triggers.cancel,
    "message": Triggers.write,
}


async def _until_answered(
    who: Customer,
    service: str,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    *,
    fine: set[int],
) -> httpx.Response:
    headers = {"Idempotency_Key": str(uuid7())} if method == "POST" else {}

    async def answered() -> httpx.Response:
        try:
            answer = await who.ask(service, method, path, body, **headers)
        except httpx.TransportError as error:
            raise AssertionError(f"no answer: {error!r}") from None
        assert answer.status_code in fine, answer.text
        return answer

    return await eventually(answered, within=PATIENCE_SECONDS)
