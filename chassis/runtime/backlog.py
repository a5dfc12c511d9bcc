"""Figures that only a service's tables and queues know, counted now and then.

What waits for the broker, and for how long; and what lies in the dead queue, whoever has put it there.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Gauge

from chassis.database.errors import is_transient
from chassis.database.transaction import Pool
from chassis.messaging.topology import DEAD

if TYPE_CHECKING:
    from chassis.runtime.service import Service

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 10.0

MOST: Final = 100_000
"""As far as is counted: more is as bad, and counting costs."""

ROWS = Gauge("chorus_outbox_rows", "Events that wait in the outbox; 100,000 at most.")
OLDEST = Gauge("chorus_outbox_oldest_seconds", "Age of the oldest event in the outbox.")
MESSAGES = Gauge("chorus_queue_messages", "Messages that lie in the dead queue.", ["queue"])

COUNT: Final = """
SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS waiting) AS events,
    coalesce((SELECT extract(epoch FROM clock_timestamp() - occurred_at) FROM outbox ORDER BY id LIMIT 1), 0)::float8
    AS age
"""


async def count_outbox(service: "Service") -> None:
    """Count what waits in the outbox, for as long as the process runs."""
    await poll(service.database.pool, _count)


async def _count(pool: Pool) -> None:
    events, age = await pool.fetchrow(COUNT, MOST)
    ROWS.set(events)
    OLDEST.set(max(age, 0.0))


async def count_dead(service: "Service") -> None:
    """Count what lies in the dead queue, for as long as the process runs; a broker that is away is asked later."""
    while True:
        await look_into_dead(service)
        await asyncio.sleep(LOOK_SECONDS)


async def look_into_dead(service: "Service") -> None:
    """Set the figure; it stays what it was if the broker does not answer."""
    queue = f"{service.name}.{DEAD}"
    try:
        MESSAGES.labels(queue).set(await service.broker.waiting(queue))
    except Exception as error:
        log.warning("gauges.queue_not_counted", queue=queue, error=repr(error))


async def poll(pool: Pool, look: Callable[[Pool], Awaitable[None]]) -> None:
    """Look every ten seconds; a database that is away is looked at later."""
    while True:
        try:
            await look(pool)
        except Exception as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(LOOK_SECONDS)
