"""Who waits for a change of an order hears of it, whichever replica of the service makes the change.

A change that this process commits is told at once. A change that another replica commits is found by one statement
for everybody who waits, every 50 ms while somebody does. (PostgreSQL's NOTIFY takes a global lock at every commit.)
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Final
from uuid import UUID

from apps.orders.models import Order
from chassis.database.errors import is_transient
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool

LOOK_SECONDS: Final = 0.05


class Changes:
    """The changes of orders that somebody in this process waits for."""

    def __init__(self) -> None:
        self._waiting: dict[UUID, set[asyncio.Queue[Order | None]]] = defaultdict(set)
        self._somebody = asyncio.Event()

    def happened(self, orders: Iterable[Order]) -> None:
        """Tell whoever waits for these orders."""
        if self._waiting:
            for order in orders:
                for queue in self._waiting.get(order.id, ()):
                    queue.put_nowait(order)

    def end(self) -> None:
        """Tell everybody that this process stops: no more changes are heard of here."""
        for queues in self._waiting.values():
            for queue in queues:
                queue.put_nowait(None)

    @contextlib.asynccontextmanager
    async def of(self, order_id: UUID) -> AsyncIterator[asyncio.Queue[Order | None]]:
        """States of one order as they become known, from now on; the same state may come twice.

        None means that the process stops.
        """
        queue: asyncio.Queue[Order | None] = asyncio.Queue()
        self._waiting[order_id].add(queue)
        self._somebody.set()
        try:
            yield queue
        finally:
            self._waiting[order_id].discard(queue)
            if not self._waiting[order_id]:
                del self._waiting[order_id]
            if not self._waiting:
                self._somebody.clear()

    async def look(self, pool: Pool) -> None:
        """Find what other replicas have changed, for as long as the process runs."""
        sql = statements(Order).where("id = ANY($1::uuid[]) AND status <> 'pending'")
        while True:
            await self._somebody.wait()
            try:
                records = await pool.fetch(sql, list(self._waiting))
                self.happened(from_record(Order, record) for record in records)
            except Exception as error:
                if not is_transient(error):
                    raise
            await asyncio.sleep(LOOK_SECONDS)


changes = Changes()
"""One per process: use cases tell it, routes listen to it."""
