"""Gauges of late orders: those pending for more than a minute, and the age of the oldest.

Orders have no index on their status, which would cost two writes for each order. Ids are in the order of time, so a
measurement reads by id the orders that were late at the last one, and those of the last three minutes; all others are
settled. An order that is never settled costs one row per measurement.
"""

from typing import Final
from uuid import UUID

from prometheus_client import Gauge

from chassis.database.transaction import Pool
from events.base import least_id

LIMIT: Final = 10_000
"""The most orders that are counted."""

LATE = Gauge("chorus_orders_late", "Orders pending for more than a minute; 10,000 at most.")
OLDEST = Gauge("chorus_orders_late_oldest_seconds", "The age of the oldest late order.")

LATE_ORDERS: Final = """
SELECT id, extract(epoch FROM now() - placed_at)::float8 AS age
FROM (SELECT id, status, placed_at FROM orders WHERE id = ANY($1)
    UNION SELECT id, status, placed_at FROM orders WHERE id >= $2) AS candidates
WHERE status = 'pending' AND placed_at < now() - interval '1 minute' ORDER BY id LIMIT $3
"""
BEGIN: Final = "SELECT now() - interval '3 minutes'"
"""One minute, and two more for clocks that differ and for long transactions."""


class LateOrders:
    """Measures late orders. The first measurement reads all orders."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._late: list[UUID] = []
        self._begin = UUID(int=0)

    async def measure(self) -> None:
        """Set the gauges."""
        begin = least_id(await self._pool.fetchval(BEGIN))
        late = await self._pool.fetch(LATE_ORDERS, self._late, self._begin, LIMIT)
        LATE.set(len(late))
        OLDEST.set(max((record["age"] for record in late), default=0.0))
        self._late = [record["id"] for record in late]
        # Orders beyond the limit have no id in `_late`: the next measurement must find them again.
        self._begin = begin if len(late) < LIMIT else min(begin, self._late[-1])
