"""Customers who place orders during all faults, until the load is stopped."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

from events.money import to_text
from tests.stories.customers import Customer
from tests.stories.stack import Stack
from tests.support.eventually import eventually
from tests.support.processes import ServiceProcess

CUSTOMERS = 6
RESERVE = 60
"""How many more orders than the story waits for may be placed meanwhile."""

AFFORDABLE = 10
"""About how many orders each customer has money for; what comes after them is refused."""


class Load:
    """Orders of random totals, one after another for each customer, each asked for until it is accepted."""

    def __init__(
        self, customers: Sequence[Customer], processes: Sequence[str | ServiceProcess]
    ) -> None:
        self.orders: list[UUID] = []
        self._customers = customers
        self._rotations = itertools.cycle(
            [[*processes[first:], *processes[:first]] for first in range(len(processes))]
        )
        self._enough = asyncio.Event()
        self._limit = RESERVE
        self._random = random.Random(7)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, stack: Stack, *processes: str | ServiceProcess) -> AsyncIterator["Load"]:
        """Runs until the end of the block; then every order has been accepted.

        `processes` are used in turn; if one is down, the next one is tried.
        """
        deposit = to_text(AFFORDABLE * 200)
        customers = [await stack.customer(deposit=deposit) for _ in range(CUSTOMERS)]
        load = cls(customers, processes or ["orders"])
        async with asyncio.TaskGroup() as shopping:
            for customer in customers:
                shopping.create_task(load._shop(customer))
            try:
                yield load
            finally:
                load._enough.set()

    @property
    def let_down(self) -> int:
        """How many requests have got no answer."""
        return sum(customer.let_down for customer in self._customers)

    async def _shop(self, customer: Customer) -> None:
        while await eventually(self._wanted, within=120) and not self._enough.is_set():
            total = to_text(self._random.randint(1, 400))
            order_id = await customer.order_whatever_happens(total, replicas=next(self._rotations))
            self.orders.append(order_id)

    async def _wanted(self) -> bool:
        return len(self.orders) < self._limit or self._enough.is_set()

    async def goes_on(self, orders: int = 30) -> None:
        """Return once so many more orders have been accepted."""
        goal = len(self.orders) + orders
        self._limit = goal + RESERVE

        async def reached() -> bool:
            return len(self.orders) >= goal

        await eventually(reached, within=60, what="nobody can order any more")
