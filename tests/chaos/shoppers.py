"""Customers who continue during all faults, and record their requests and the responses."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from bench.answers import Attempt
from events.money import to_minor, to_text
from tests.chaos.verdict import Report
from tests.chaos.world import World
from tests.stories.customers import Customer

CUSTOMERS: Final = 60
REFUSED_MAIL: Final = 3
"""Customers whose mail server takes no e-mail, ever: their e-mails fail, with the reason."""

SHOPPERS: Final = 40
"""How many requests are on their way at most."""

TRIES: Final = 60
"""How often an order is asked for with the same key until there is an answer."""


class Shoppers:
    """The load: requests at a constant rate, from customers chosen at random."""

    def __init__(self, world: World, report: Report, rate: float, seed: int) -> None:
        self._world = world
        self._report = report
        self._rate = rate
        self._dice = random.Random(seed)
        self._customers: list[Customer] = []
        self._placed: dict[UUID, list[tuple[UUID, str, str]]] = {}
        self._last_accepted = 0.0
        self.paid_in: dict[UUID, tuple[int, int]] = {}
        """By customer: minor units of confirmed deposits, and of those without a response."""

    async def register(self) -> None:
        """Everybody registers, and pays something in. Nothing fails yet."""
        for number in range(CUSTOMERS):
            customer = await self._world.customer(f"Customer {number}")
            self._customers.append(customer)
            self.paid_in[customer.id] = (0, 0)
            if number < REFUSED_MAIL:
                self._world.refused_for_good.add(customer.addresses[0])
                self._world.mail.refuse(customer.addresses[0], "550 no such mailbox")
        for customer in self._customers:
            while not self.paid_in[customer.id][0]:  # billing may not know them yet
                await self._deposit(customer)

    @contextlib.asynccontextmanager
    async def shopping(self) -> AsyncIterator[None]:
        """Send requests during this block; at its end each has a response or was given up."""
        enough = asyncio.Event()
        self._last_accepted = time.monotonic()
        async with asyncio.TaskGroup() as shop:
            for place in range(SHOPPERS):
                shop.create_task(self._shop(place, enough))
            try:
                yield
            finally:
                enough.set()

    async def _shop(self, place: int, enough: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + place / self._rate
        while not enough.is_set():
            await asyncio.sleep(due - loop.time())
            # After an interruption the missed requests are sent a little faster, not all at once.
            due = max(due, loop.time() - 2.0) + SHOPPERS / self._rate
            customer = self._dice.choice(self._customers)
            command = self._dice.random()
            if command < 0.88:
                await self._order(customer)
            elif command < 0.92:
                await self._deposit(customer)
            elif command < 0.94:
                await self._ask(
                    customer,
                    "billing",
                    "POST",
                    f"/account/{customer.id}/withdraw",
                    {"amount": "1.00"},
                )
            elif command < 0.96:
                await self._cancel(customer)
            elif command < 0.98:
                await self._ask_again(customer)
            else:
                await self._ask(customer, "orders", "GET", "/order?limit=5")

    async def _ask(
        self,
        customer: Customer,
        service: str,
        method: str,
        path: str,
        body: Any = None,
        **headers: str,
    ) -> httpx.Response | None:
        """One request; None if there is no answer."""
        try:
            answer = await customer.ask(service, method, path, body, **headers)
        except httpx.TransportError:
            self._report.unknown += 1
            return None
        if answer.is_success:
            self._report.ok += 1
        else:
            self._report.failed += 1
        return answer

    async def _order(self, customer: Customer) -> None:
        key, total = str(uuid7()), to_text(self._dice.randint(1, 400))
        for again in range(TRIES):
            order_id = await self._ask_for_order(customer, key, total)
            if order_id is not None:
                self._accepted(customer, order_id, key, total)
                return
            await asyncio.sleep(0.1 if again < 10 else 0.5)

    async def _ask_for_order(self, customer: Customer, key: str, total: str) -> UUID | None:
        flow = f"{customer.flow}.{next(customer._requests)}"
        attempt = Attempt(customer.id, to_minor(total), key, flow)
        self._world.attempts.append(attempt)
        answer = await self._ask(
            customer, "orders", "POST", "/order/create", {"totalPrice": total},
            Idempotency_Key=key, X_Correlation_Id=flow,
        )  # fmt: skip
        if answer is None:
            return None
        if answer.status_code == 201:
            attempt.order_id = UUID(answer.json()["orderId"])
        elif answer.status_code < 500:
            attempt.refused = True
        return attempt.order_id

    def _accepted(self, customer: Customer, order_id: UUID, key: str, total: str) -> None:
        now = time.monotonic()
        self._report.accepted += 1
        self._report.longest_stall = max(self._report.longest_stall, now - self._last_accepted)
        self._last_accepted = now
        self._placed.setdefault(customer.id, []).append((order_id, key, total))

    async def _ask_again(self, customer: Customer) -> None:
        """A retry of an order that was accepted is the same order."""
        if not (placed := self._placed.get(customer.id)):
            return
        order_id, key, total = self._dice.choice(placed)
        again = await self._ask_for_order(customer, key, total)
        if again not in (None, order_id):
            self._report.sort_out([f"key {key} gave order {order_id} first and {again} later"])

    async def _cancel(self, customer: Customer) -> None:
        if placed := self._placed.get(customer.id):
            order_id, _, _ = placed[-1] if self._dice.random() < 0.5 else self._dice.choice(placed)
            await self._ask(customer, "orders", "POST", f"/order/{order_id}/cancel")

    async def _deposit(self, customer: Customer) -> None:
        amount, key = self._dice.randint(1_000, 20_000), str(uuid7())
        sure, perhaps = self.paid_in[customer.id]
        self.paid_in[customer.id] = (sure, perhaps + amount)
        path, body = f"/account/{customer.id}/deposit", {"amount": to_text(amount)}
        for _ in range(TRIES):
            answer = await self._ask(customer, "billing", "POST", path, body, Idempotency_Key=key)
            if answer is not None and answer.status_code < 500 and answer.status_code != 401:
                sure, perhaps = self.paid_in[customer.id]
                paid = amount if answer.is_success else 0
                self.paid_in[customer.id] = (sure + paid, perhaps - amount)
                return
            await asyncio.sleep(0.2)

    async def money_that_is_wrong(self) -> list[str]:
        """Return the customers whose deposits in the ledger are not those that were confirmed to them."""
        found = {
            row["user_id"]: int(row["amount"])
            for row in await self._world.rows("billing", _PAID_IN)
        }
        return [
            f"customer {id} paid in {sure} and perhaps {perhaps} more, the ledger says {found.get(id, 0)}"
            for id, (sure, perhaps) in self.paid_in.items()
            if not sure <= found.get(id, 0) <= sure + perhaps
        ]


_PAID_IN: Final = """
SELECT a.user_id, sum(t.amount)::bigint AS amount FROM transfers t JOIN accounts a ON a.id = t.account_id
WHERE t.kind = 'deposit' GROUP BY a.user_id
"""
