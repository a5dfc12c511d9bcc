"""Updates of orders for clients that wait for an outcome, which any replica of the service may commit.

One statement reads all orders that clients of this process wait for: every 50 ms while there are any, and at once after
this process has committed an outcome. PostgreSQL's NOTIFY would take a global lock at every COMMIT.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

from apps.orders.models import Order
from chassis.database.errors import is_transient
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool, Transaction

POLL_SECONDS: Final = 0.05
"""The interval while clients wait; the first of them starts it."""

SETTLED: Final = statements(Order).where("id = ANY($1::uuid[]) AND status <> 'pending'")


class OrderUpdates:
    """The settled states of orders that clients of this process wait for."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[UUID, set[asyncio.Queue[Order | None]]] = defaultdict(set)
        self._woken = asyncio.Event()

    def committed(self, tx: Transaction) -> None:
        """Read at once after a transaction with events, if a client waits."""
        if self._waiting and tx.events:
            self._woken.set()

    @contextlib.asynccontextmanager
    async def of(self, order_id: UUID) -> AsyncIterator["asyncio.Queue[Order | None]"]:
        """The states of one order from now on; a state may be repeated. None means that the process stops."""
        queue: asyncio.Queue[Order | None] = asyncio.Queue()
        self._waiting[order_id].add(queue)
        self._woken.set()
        try:
            yield queue
        finally:
            self._waiting[order_id].discard(queue)
            if not self._waiting[order_id]:
                del self._waiting[order_id]

    async def poll(self) -> None:
        """Read the orders that clients wait for, for as long as the process runs."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS if self._waiting else None):
                    await self._woken.wait()
            self._woken.clear()
            if self._waiting:
                try:
                    await self._read()
                except Exception as error:
                    if not is_transient(error):
                        raise

    async def _read(self) -> None:
        for record in await self._pool.fetch(SETTLED, list(self._waiting)):
            order = from_record(Order, record)
            for queue in self._waiting.get(order.id, ()):
                queue.put_nowait(order)

    async def end(self, stopping: asyncio.Event) -> None:
        """Wait for the process to stop, then end the waiting of all clients, so that they do not delay it."""
        await stopping.wait()
        for queues in self._waiting.values():
            for queue in queues:
                queue.put_nowait(None)
        await asyncio.Event().wait()  # a background task must not end by itself
