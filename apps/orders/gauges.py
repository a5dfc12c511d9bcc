"""How many orders have been pending for more than a minute, and how long the oldest one has been.

Orders are not indexed by status, which would cost each of them twice. A look finds the orders that were late at
the last one by their ids, and new ones among those of the last three minutes, as ids are in the order of time: whatever
else lies before is settled for good. An order that is never decided about costs a look one row, not all since.
"""

from typing import Final
from uuid import UUID

from prometheus_client import Gauge

from chassis.database.transaction import Pool
from events.base import least_id

MOST: Final = 10_000
"""As far as is counted: more is as bad."""

LATE = Gauge("chorus_orders_late", "Orders pending for more than a minute; 10,000 at most.")
OLDEST = Gauge("chorus_orders_late_oldest_seconds", "How long the oldest of them is pending.")

LOOK: Final = """
SELECT id, extract(epoch FROM now() - placed_at)::float8 AS age
FROM (SELECT id, status, placed_at FROM orders WHERE id = ANY($1)
    UNION SELECT id, status, placed_at FROM orders WHERE id >= $2) AS looked_at
WHERE status = 'pending' AND placed_at < now() - interval '1 minute' ORDER BY id LIMIT $3
"""
BEGIN: Final = "SELECT now() - interval '3 minutes'"
"""A minute, and two for ids of clocks that differ and of transactions that were long."""


class LateOrders:
    """Looks at the orders that were late, and at those that may have become late since. The first look is at all."""

    def __init__(self) -> None:
        self._late: list[UUID] = []
        self._begin = UUID(int=0)

    async def look(self, pool: Pool) -> None:
        """Set the figures."""
        begin = least_id(await pool.fetchval(BEGIN))
        late = await pool.fetch(LOOK, self._late, self._begin, MOST)
        LATE.set(len(late))
        OLDEST.set(max((record["age"] for record in late), default=0.0))
        self._late = [record["id"] for record in late]
        # Those beyond the limit are not known by their ids: the next look must find them again.
        self._begin = begin if len(late) < MOST else min(begin, self._late[-1])
