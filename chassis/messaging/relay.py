"""The relay: publishes the rows of the outbox.

One loop per process. It takes waiting rows, publishes them in message batches, awaits every confirm, and only then
commits: a row is deleted in the transaction that got its confirm, and a crash at any point leaves it for the next
relay. So every event is published at least once; the inbox of a consumer skips duplicates.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import asyncpg
import structlog
from aio_pika.exceptions import DeliveryError, PublishError
from prometheus_client import Counter, Gauge

from chassis import crash_points
from chassis.database.errors import is_transient
from chassis.database.transaction import Pool, Transaction, transaction
from chassis.messaging.errors import is_being_cancelled
from chassis.messaging.message import MessageBatch, message_batches, to_message
from chassis.messaging.outbox import Row
from chassis.messaging.publisher import Publication, Publisher
from chassis.signal import Signal

log = structlog.get_logger(__name__)

TAKE_LIMIT: Final = 1024
"""Rows per transaction: 16 full message batches."""

SWEEP_SECONDS: Final = 1.0
"""How often the relay polls the table without being woken; finds the rows that a crash left."""

RETRY_SECONDS: Final = 5.0
"""Delay before the next attempt for a row that the broker returned or refused."""

PUBLISHED = Counter("chorus_relay_published_total", "Events confirmed by the broker.", ["exchange"])
FAILED = Counter("chorus_relay_failed_total", "Events whose publish was not confirmed.", ["reason"])
for _reason in (PublishError, DeliveryError, TimeoutError):
    FAILED.labels(
        _reason.__name__
    )  # exported from the start, so that an alarm sees the first failure as a rise
UNROUTABLE = Gauge(
    "chorus_relay_unroutable",
    "Events of the last attempt that the broker could not route to a queue.",
)


class BrokerAwayError(Exception):
    """No publish of a whole transaction was confirmed, and at least one was not answered."""


class Relay:
    """Publishes the outbox of one database."""

    def __init__(self, pool: Pool, publisher: Publisher) -> None:
        self._pool = pool
        self._publisher = publisher
        self._signal = Signal()
        self._one_at_a_time = asyncio.Lock()

    def committed(self, tx: Transaction) -> None:
        """Publish soon what a transaction has written, if it has written events."""
        if tx.outbox:
            self.wake()

    def wake(self) -> None:
        """Read the outbox at once."""
        self._signal.set()

    async def run(self) -> None:
        """Relay until cancelled; retries with backoff while the database or the broker is away.

        Raises asyncpg.PostgresError for a permanent fault, such as a missing table or privilege.
        """
        failures = 0
        try:
            while True:
                try:
                    taken = await self.move()
                except (Exception, asyncio.CancelledError) as error:
                    if is_being_cancelled():
                        raise
                    if isinstance(error, asyncpg.PostgresError) and not is_transient(error):
                        raise  # retrying would hide a permanent fault
                    failures += 1
                    await self._publisher.close()
                    delay = min(0.1 * 2 ** min(failures, 6), 3.0)
                    log.warning("relay.waiting", error=repr(error), failures=failures, delay=delay)
                    await asyncio.sleep(delay)
                    continue
                failures = 0
                if taken < TAKE_LIMIT:
                    await self._signal.wait(SWEEP_SECONDS)
        finally:
            await self._publisher.close()

    async def move(self) -> int:
        """Publish up to TAKE_LIMIT waiting rows in one transaction; returns how many rows were taken.

        Waits until a transaction of this relay that is in progress has ended. Raises BrokerAwayError, what
        `Publisher.publish` raises, or what the database raises. The rows then stay in the outbox, except perhaps after
        CommitUnknownError; at worst their events are published twice.
        """
        async with self._one_at_a_time:
            return await self._move()

    async def _move(self) -> int:
        async with transaction(self._pool) as tx:
            rows = await take(tx, TAKE_LIMIT)
            if not rows:
                return 0
            _reached("before_publish", rows)
            batches = list(message_batches(rows))
            results = await self._publisher.publish([_publication(batch) for batch in batches])
            _reached("after_confirm", rows)
            outcomes = list(zip(batches, results, strict=True))
            failed = [(batch, error) for batch, error in outcomes if error is not None]
            _put_back(tx, failed)
            if len(failed) == len(batches) and not _is_refused(failed):
                raise BrokerAwayError(repr(failed[0][1]))
            _reached("before_commit", rows)
        _reached("after_commit", rows)
        for batch, error in outcomes:
            if error is None:
                PUBLISHED.labels(batch[0].exchange).inc(len(batch))
        return len(rows)


def _put_back(tx: Transaction, failed: Sequence[tuple[MessageBatch, BaseException]]) -> None:
    """Write the rows that were not confirmed to the outbox again; their retry does not delay other rows."""
    for batch, error in failed:
        FAILED.labels(type(error).__name__).inc(len(batch))
        log.error(
            "relay.not_confirmed",
            error=repr(error),
            events=len(batch),
            exchange=batch[0].exchange,
            routing_key=batch[0].routing_key,
        )
    UNROUTABLE.set(sum(len(batch) for batch, error in failed if isinstance(error, PublishError)))
    retry_at = tx.now + timedelta(seconds=RETRY_SECONDS)
    tx.outbox += [row._replace(retry_at=retry_at) for batch, _ in failed for row in batch]


def _is_refused(failed: Sequence[tuple[MessageBatch, BaseException]]) -> bool:
    """Whether the broker answered every one of these publishes, by returning or refusing the message."""
    return all(isinstance(error, DeliveryError) for _, error in failed)


TAKE = f"""
DELETE FROM outbox WHERE id = ANY(ARRAY(
    SELECT id FROM outbox WHERE retry_at IS NULL OR retry_at <= now()
    ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING {", ".join(Row._fields)}
"""
# An array is made once. `IN` may be planned as a join that runs the inner query again for each row, and each run locks
# other rows: slow, and more than the limit. It is planned so once the table has been analysed while it was empty.


async def take(tx: Transaction, limit: int) -> list[Row]:
    """Delete up to `limit` waiting rows and return them, oldest first.

    The deletion is undone if the transaction rolls back. Rows that another relay has locked are skipped. The query
    selects what is unpublished, never "what follows the last id": rows do not commit in the order of their ids.
    """
    records = await tx.fetch(TAKE, limit)
    return sorted(Row(*record.values()) for record in records)


def _reached(point: str, rows: Sequence[Row]) -> None:
    if crash_points.ARMED:
        crash_points.reached(f"relay.{point}", {row.attributes["type"] for row in rows})


def _publication(batch: MessageBatch) -> Publication:
    return batch[0].exchange, batch[0].routing_key, to_message(batch)
