"""Gauges of a service's backlog: the rows and age of its outbox, and the messages in its dead-letter queue."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
from prometheus_client import Gauge

from chassis.database.errors import is_transient
from chassis.database.transaction import Pool
from chassis.messaging.broker import RabbitConsumer
from chassis.messaging.topology import DEAD

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 10.0

LIMIT: Final = 100_000
"""Rows that are counted at most."""

ROWS = Gauge("chorus_outbox_rows", "Events that wait in the outbox; 100,000 at most.")
OLDEST = Gauge("chorus_outbox_oldest_seconds", "Age of the oldest event in the outbox.")
MESSAGES = Gauge("chorus_queue_messages", "Messages that lie in the dead queue.", ["queue"])

COUNT: Final = """
SELECT (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS waiting) AS events,
    coalesce((SELECT extract(epoch FROM clock_timestamp() - occurred_at) FROM outbox ORDER BY id LIMIT 1), 0)::float8
    AS age
"""


async def count_outbox(pool: Pool) -> None:
    """Measure the outbox every POLL_SECONDS for as long as the process runs."""
    await poll(partial(measure_outbox, pool))


async def measure_outbox(pool: Pool) -> None:
    """Set the outbox's gauges."""
    events, age = await pool.fetchrow(COUNT, LIMIT)
    ROWS.set(events)
    OLDEST.set(max(age, 0.0))


async def count_dead_letters(broker: RabbitConsumer, service: str) -> None:
    """Count the dead letters every POLL_SECONDS for as long as the process runs."""
    while True:
        await measure_dead_letters(broker, service)
        await asyncio.sleep(POLL_SECONDS)


async def measure_dead_letters(broker: RabbitConsumer, service: str) -> None:
    """Set the gauge. It keeps its value if the broker does not answer."""
    queue = f"{service}.{DEAD}"
    try:
        MESSAGES.labels(queue).set(await broker.waiting(queue))
    except Exception as error:
        log.warning("gauges.queue_not_counted", queue=queue, error=repr(error))


async def poll(measure: Callable[[], Awaitable[None]]) -> None:
    """Measure every POLL_SECONDS. A database that is unavailable is asked again at the next turn."""
    while True:
        try:
            await measure()
        except Exception as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(POLL_SECONDS)
