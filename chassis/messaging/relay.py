"""The relay: publishes the rows of the event log that the outbox refers to.

One loop per process. It takes waiting rows, publishes them in message batches, awaits every confirm, and only then
commits: a row leaves the outbox in the transaction that got its confirm, and a crash at any point leaves it for the
next relay. So every event is published at least once; the inbox of a consumer skips duplicates.
"""

import asyncio
import contextlib
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
from chassis.messaging.errors import Failures, is_being_cancelled
from chassis.messaging.message import MessageBatch, message_batches, to_message
from chassis.messaging.outbox import Outbox, Row
from chassis.messaging.publisher import Publisher
from chassis.progress import expect_progress

log = structlog.get_logger(__name__)

TAKE_LIMIT: Final = 256
"""Rows per transaction: of 64 events each at most, some 10 MB."""

SWEEP_SECONDS: Final = 1.0
"""How often the relay polls the table without being woken; finds the rows that a crash left."""

ROUND_SECONDS: Final = 90.0
"""More than a round can take, with a timeout of each of its statements and of the broker, and the pause after it."""

RETRY_SECONDS: Final = 5.0
"""Delay before the next attempt for a row that the broker returned or refused."""

PUBLISHED = Counter("chorus_relay_published_total", "Events confirmed by the broker.", ["exchange"])
FAILED = Counter("chorus_relay_failed_total", "Events whose publish was not confirmed.", ["reason"])
ROW_MISSING: Final = "RowMissing"
for _reason in (PublishError.__name__, DeliveryError.__name__, TimeoutError.__name__, ROW_MISSING):
    # Exported from the start, so that an alarm sees the first failure as a rise.
    FAILED.labels(_reason)
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
        self._woken = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self.failures = Failures()
        """Rounds in which rows waited and the broker confirmed none."""

    def committed(self, tx: Transaction) -> None:
        """Publish soon what a transaction has written, if it has written events."""
        if tx.outbox:
            self.wake()

    def wake(self) -> None:
        """Read the outbox at once."""
        self._woken.set()

    async def run(self) -> None:
        """Relay until cancelled; retries with backoff while the database or the broker is away.

        Raises asyncpg.PostgresError for a permanent fault, such as a missing table or privilege.
        """
        failures = 0
        try:
            while True:
                expect_progress(within=ROUND_SECONDS)
                try:
                    taken = await self.move()
                    failures = 0
                except (Exception, asyncio.CancelledError) as error:
                    failures += 1
                    await self._wait(error, failures)
                    continue
                if taken < TAKE_LIMIT:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SWEEP_SECONDS):
                            await self._woken.wait()
                    self._woken.clear()
        finally:
            await self._publisher.close()

    async def _wait(self, error: BaseException, failures: int) -> None:
        """Wait before the next attempt; raises if there must not be one."""
        permanent = isinstance(error, asyncpg.PostgresError) and not is_transient(error)
        if is_being_cancelled() or permanent:
            raise error
        await self._publisher.close()
        delay = min(0.1 * 2 ** min(failures, 6), 3.0)
        log.warning("relay.waiting", error=repr(error), failures=failures, delay=delay)
        await asyncio.sleep(delay)

    async def move(self) -> int:
        """Publish up to TAKE_LIMIT waiting rows in one transaction; returns how many events were taken.

        Waits until a transaction of this relay that is in progress has ended. Raises BrokerAwayError, what
        `Publisher.publish` raises, or what the database raises. The rows then stay in the outbox, except perhaps after
        CommitUnknownError; at worst their events are published twice.
        """
        async with self._one_at_a_time, transaction(self._pool) as tx:
            rows = await take(tx, TAKE_LIMIT)
            if not rows:
                return 0
            _reached("before_publish", rows)
            batches = list(message_batches(rows))
            results = await self._publish(batches)
            _reached("after_confirm", rows)
            UNROUTABLE.set(0)
            if any(error is not None for error in results):
                await _put_back(tx, batches, results)
            _reached("before_commit", rows)
        _reached("after_commit", rows)
        for batch, error in zip(batches, results, strict=True):
            if error is None:
                PUBLISHED.labels(batch[0].exchange).inc(_events(batch))
        return _events(rows)

    async def _publish(self, batches: Sequence[MessageBatch]) -> list[BaseException | None]:
        messages = [(b[0].exchange, b[0].routing_key, to_message(b)) for b in batches]
        try:
            results = await self._publisher.publish(messages)
        except BaseException as error:
            self.failures.add(error)
            raise
        if all(results) and results[0] is not None:
            self.failures.add(results[0])
        else:
            self.failures.clear()
        return results


def _events(rows: Sequence[Row]) -> int:
    return sum(row.events for row in rows)


async def _put_back(
    tx: Transaction, batches: Sequence[MessageBatch], results: Sequence[BaseException | None]
) -> None:
    """Write the rows that were not confirmed to the outbox again; their retry does not delay other rows.

    Raises BrokerAwayError if nothing was confirmed, unless the broker answered every publish by returning or refusing
    the message.
    """
    failed = [(b, error) for b, error in zip(batches, results, strict=True) if error is not None]
    for batch, error in failed:
        FAILED.labels(type(error).__name__).inc(_events(batch))
        log.error(
            "relay.not_confirmed",
            error=repr(error),
            events=_events(batch),
            exchange=batch[0].exchange,
            routing_key=batch[0].routing_key,
        )
    UNROUTABLE.set(
        sum(_events(batch) for batch, error in failed if isinstance(error, PublishError))
    )
    if len(failed) == len(batches) and not all(isinstance(e, DeliveryError) for _, e in failed):
        raise BrokerAwayError(repr(failed[0][1]))
    retry_at = tx.now + timedelta(seconds=RETRY_SECONDS)
    await tx.insert([Outbox(id=row.id, retry_at=retry_at) for batch, _ in failed for row in batch])


TAKE = f"""
WITH taken AS (
    DELETE FROM outbox WHERE id = ANY(ARRAY(
        SELECT id FROM outbox WHERE retry_at IS NULL OR retry_at <= now()
        ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING id)
SELECT {", ".join(Row._fields)} FROM taken LEFT JOIN event_log USING (id)
"""
# An array is made once. `IN` may be planned as a join that runs the inner query again for each row, and each run locks
# other rows: slow, and more than the limit. It is planned so once the table has been analysed while it was empty.


async def take(tx: Transaction, limit: int) -> list[Row]:
    """Delete up to `limit` ids from the outbox and return their rows of the event log, oldest first.

    An id without a row, which only a partial restore can leave, is counted and logged: there is nothing to publish.

    The deletion is undone if the transaction rolls back. Rows that another relay has locked are skipped. The query
    selects what is unpublished, never "what follows the last id": rows do not commit in the order of their ids.
    """
    records = await tx.fetch(TAKE, limit)
    if lost := [str(record["id"]) for record in records if record["events"] is None]:
        FAILED.labels(ROW_MISSING).inc(len(lost))
        log.critical("relay.row_missing", ids=lost)
    return sorted(Row(*record.values()) for record in records if record["events"] is not None)


def _reached(point: str, rows: Sequence[Row]) -> None:
    if crash_points.ARMED:
        crash_points.reached(f"relay.{point}", {row.attributes["type"] for row in rows})
