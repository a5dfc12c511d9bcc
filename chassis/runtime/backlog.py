"""Gauges of a service's backlog: the rows and age of its outboxes, and the messages in its dead-letter queue."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import Gauge

from chassis.database.errors import is_transient
from chassis.database.transaction import Pool
from chassis.messaging.broker import RabbitConsumer
from chassis.messaging.topology import DEAD
from chassis.runtime.supervisor import expect_progress

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 10.0

STUCK_SECONDS: Final = 90.0
"""More than a measurement and the pause after it can take."""

LIMIT: Final = 100_000
"""The most rows that are counted."""

ROWS = Gauge(
    "chorus_outbox_rows",
    "Rows in the outbox, of up to 64 events each; 100,000 at most.",
    ["outbox"],
)
OLDEST = Gauge("chorus_outbox_oldest_seconds", "Age of the oldest event in the outbox.", ["outbox"])
MESSAGES = Gauge("chorus_dead_letter_messages", "Messages in the dead-letter queue.", ["queue"])

COUNT: Final = """
SELECT (SELECT count(*) FROM (SELECT FROM {outbox} LIMIT $1) AS waiting) AS rows,
    coalesce((SELECT extract(epoch FROM clock_timestamp() - occurred_at) FROM {outbox} JOIN event_log USING (id)
              ORDER BY id LIMIT 1), 0)::float8 AS age
"""
COUNTS: Final = {outbox: COUNT.format(outbox=outbox) for outbox in ("outbox", "journal_outbox")}


async def measure_outboxes(pool: Pool) -> None:
    """Set the gauges of both outboxes."""
    for outbox, count in COUNTS.items():
        rows, age = await pool.fetchrow(count, LIMIT)
        ROWS.labels(outbox).set(rows)
        OLDEST.labels(outbox).set(max(age, 0.0))


async def measure_dead_letters(broker: RabbitConsumer, service: str) -> None:
    """Set the gauge of the dead-letter queue. It keeps its value if the broker does not respond."""
    queue = f"{service}.{DEAD}"
    try:
        MESSAGES.labels(queue).set(await broker.waiting(queue))
    except Exception as error:
        log.warning("gauges.queue_not_counted", queue=queue, error=repr(error))


async def poll(
    measure: Callable[..., Awaitable[None]], *arguments: object, every: float = POLL_SECONDS
) -> None:
    """Measure every so many seconds for as long as the process runs. Transient errors of the database are ignored."""
    while True:
        expect_progress(within=STUCK_SECONDS)
        try:
            await measure(*arguments)
        except Exception as error:
            if not is_transient(error):
                raise
        await asyncio.sleep(every)
