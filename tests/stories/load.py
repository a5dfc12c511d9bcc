"""Customers who go on ordering whatever happens, until they are told that it is enough."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from events.money import to_text
from tests.stories.customers import Customer
from tests.stories.stack import Stack
from tests.support.eventually import eventually

CUSTOMERS = 6
AFFORDABLE = 30
"""About how many orders each customer has money for; what comes after them is refused."""


class Load:
    """Orders of random totals, one after another for each customer, each asked for until it is accepted."""

    def __init__(self, customers: Sequence[Customer]) -> None:
        self.orders: list[UUID] = []
        self._customers = customers
        self._enough = asyncio.Event()
        self._random = random.Random(7)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, stack: Stack) -> AsyncIterator["Load"]:
        """Runs until the end of the block; then every order has been accepted."""
        deposit = to_text(AFFORDABLE * 200)
        load = cls([await stack.customer(deposit=deposit) for _ in range(CUSTOMERS)])
        async with asyncio.TaskGroup() as customers:
            for customer in load._customers:
                customers.create_task(load._shop(customer))
            try:
                yield load
            finally:
                load._enough.set()

    async def _shop(self, customer: Customer) -> None:
        while not self._enough.is_set():
            total = to_text(self._random.randint(1, 400))
            self.orders.append(await customer.order_whatever_happens(total))

    async def goes_on(self, orders: int = 30) -> None:
        """Return once so many more orders have been accepted."""
        goal = len(self.orders) + orders

        async def reached() -> bool:
            return len(self.orders) >= goal

        await eventually(reached, within=60, what="nobody can order any more")
