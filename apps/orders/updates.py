"""Updates of orders for clients that wait for an outcome, which any replica of the service may commit.

One statement reads all orders that clients of this process wait for: every 50 ms while there are any, and at once after
this process has committed an outcome. PostgreSQL's NOTIFY would take a global lock at every COMMIT.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final
from uuid import UUID

from apps.orders.models import Order
from chassis.database.errors import is_transient
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool, Transaction
from events.orders import OrderPlaced

POLL_SECONDS: Final = 0.05
"""The interval while clients wait; the first of them starts it."""

SETTLED: Final = statements(Order).where("id = ANY($1::uuid[]) AND status <> 'pending'")


class OrderUpdates:
    """The settled states of orders that clients of this process wait for.

    `on_commit` are the service's callbacks; this is one of them only while clients wait.
    """

    def __init__(self, pool: Pool, on_commit: list[Callable[[Transaction], None]]) -> None:
        self._pool = pool
        self._on_commit = on_commit
        self._waiting: dict[asyncio.Queue[Order | None], UUID] = {}
        self._woken = asyncio.Event()

    @contextlib.asynccontextmanager
    async def of(self, order_id: UUID) -> AsyncIterator["asyncio.Queue[Order | None]"]:
        """The states of one order from now on; a state may be repeated. None means that the process stops."""
        queue: asyncio.Queue[Order | None] = asyncio.Queue()
        if not self._waiting:
            self._on_commit.append(self._committed)
        self._waiting[queue] = order_id
        self._woken.set()
        try:
            yield queue
        finally:
            del self._waiting[queue]
            if not self._waiting:
                self._on_commit.remove(self._committed)

    def _committed(self, tx: Transaction) -> None:
        """Read at once after a transaction that settles orders."""
        if any(not isinstance(event, OrderPlaced) for event in tx.events):
            self._woken.set()

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
        records = await self._pool.fetch(SETTLED, list(self._waiting.values()))
        settled = {record["id"]: record for record in records}
        for queue, order_id in self._waiting.items():
            if order_id in settled:
                queue.put_nowait(from_record(Order, settled[order_id]))

    async def end(self, stopping: asyncio.Event) -> None:
        """Wait for the process to stop, then end the waiting of all clients, so that they do not delay it."""
        await stopping.wait()
        for queue in self._waiting:
            queue.put_nowait(None)
        await asyncio.Event().wait()  # a background task must not end by itself
