"""The relay: publishes the rows of the event log that an outbox refers to.

A service has two, which do not wait for each other. The first publishes events to the queues of their subscribers. The
other one copies them to the stream `journal`, and may be late: a fresh channel that publishes to a stream waits for the
coordinator of all streams.

One loop each per process. It takes waiting rows, publishes them in message batches, awaits every confirm, and only then
commits: a row leaves the outbox in the transaction that got its confirm, and a crash at any point leaves it for the
next relay. So every event is published at least once; the inbox of a consumer skips duplicates.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from typing import Final

import asyncpg
import structlog
from prometheus_client import Counter

from chassis import crash_points
from chassis.database.errors import is_transient
from chassis.database.transaction import Pool, Transaction, transaction
from chassis.messaging.errors import Failures, is_being_cancelled
from chassis.messaging.message import MessageBatch, message_batches
from chassis.messaging.outbox import Outbox, Row
from chassis.messaging.publisher import (
    REASONS,
    REFUSED,
    RETURNED,
    UNFIT,
    Publisher,
    publication,
    reason,
)
from chassis.messaging.topology import JOURNAL_PREFIX

log = structlog.get_logger(__name__)

TAKE_LIMIT: Final = 256
"""Rows per transaction: of 64 events each at most, some 10 MB."""

SWEEP_SECONDS: Final = 1.0
"""How often the relay polls the table without being woken; finds the rows that a crash left."""

ROUND_SECONDS: Final = 90.0
"""More than a round can take, with a timeout of each of its statements and of the broker, and the pause after it."""

RETRY_SECONDS: Final = 5.0
"""Delay before the next attempt for a row that the broker returned or refused."""

TAKEN: Final = """
    DELETE FROM {outbox} WHERE id = ANY(ARRAY(
        SELECT id FROM {outbox} WHERE {due} ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING id
"""
TAKE: Final = f"""
WITH taken AS ({TAKEN.format(outbox="outbox", due="retry_at IS NULL OR retry_at <= now()")}),
published AS (INSERT INTO journal_outbox SELECT id FROM taken ON CONFLICT DO NOTHING)
SELECT {", ".join(Row._fields)} FROM taken LEFT JOIN event_log USING (id)
"""
TAKE_FOR_JOURNAL: Final = f"""
WITH taken AS ({TAKEN.format(outbox="journal_outbox", due="true")})
SELECT {", ".join(Row._fields)} FROM taken LEFT JOIN event_log USING (id)
"""
# An array is made once. `IN` may be planned as a join that runs the inner query again for each row, and each run locks
# other rows: slow, and more than the limit. It is planned so once the table has been analysed while it was empty.

NOT_PUBLISHED: Final = "DELETE FROM journal_outbox WHERE id = ANY($1)"


@dataclass(frozen=True)
class Route:
    """From an outbox to the broker."""

    outbox: str
    take: str
    """Deletes up to $1 ids from the outbox and returns their rows of the event log."""
    crash_points: str
    prefix: str = ""
    """Precedes the routing keys."""
    gather_seconds: float = 0.0
    """How long a relay that was woken waits for further rows: messages become fewer and larger."""
    one_queue: bool = False
    """Whether all goes to one queue: nothing overtakes what failed, and a single row is tried until that succeeds."""


TO_SUBSCRIBERS: Final = Route("outbox", TAKE, "relay")
TO_JOURNAL: Final = Route(
    "journal_outbox", TAKE_FOR_JOURNAL, "journal_relay", JOURNAL_PREFIX, 0.2, one_queue=True
)

PUBLISHED = Counter(
    "chorus_relay_published_total", "Events confirmed by the broker.", ["outbox", "exchange"]
)
FAILED = Counter(
    "chorus_relay_failed_total", "Events whose publish was not confirmed.", ["outbox", "reason"]
)
ROW_MISSING: Final = "row_missing"
for _outbox, _reason in product(("outbox", "journal_outbox"), (*REASONS, ROW_MISSING)):
    # Exported from the start, so that an alarm sees the first failure as a rise.
    FAILED.labels(_outbox, _reason)


class BrokerAwayError(Exception):
    """No publish of a whole transaction was confirmed, and at least one was not answered.

    To the journal: not every publish was confirmed.
    """


class Relay:
    """Publishes one outbox of a database. `on_published` is called after each transaction that has published."""

    def __init__(
        self,
        pool: Pool,
        publisher: Publisher,
        route: Route = TO_SUBSCRIBERS,
        on_published: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._publisher = publisher
        self._route = route
        self._on_published = on_published
        self._woken = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self.failures = Failures()
        """Rounds in which rows waited and the broker confirmed none."""
        self._round_ends = math.inf
        """When the present round must have ended, in the event loop's time."""

    def committed(self, tx: Transaction) -> None:
        """Publish soon what a transaction has written, if it has written events."""
        if tx.outbox:
            self.wake()

    def wake(self) -> None:
        """Read the outbox at once."""
        self._woken.set()

    async def fault(self) -> str:
        """Why nothing is published: a lasting error, or a round that does not end; else empty."""
        stuck = asyncio.get_running_loop().time() > self._round_ends
        return "stuck" if stuck else await self.failures.fault()

    async def run(self) -> None:
        """Relay until cancelled; retries with backoff while the database or the broker is away.

        Raises asyncpg.PostgresError for a permanent fault, such as a missing table or privilege.
        """
        failures = 0
        try:
            while True:
                self._round_ends = asyncio.get_running_loop().time() + ROUND_SECONDS
                try:
                    limit = 1 if failures and self._route.one_queue else TAKE_LIMIT
                    taken = await self.move(limit)
                    failures = 0
                except (Exception, asyncio.CancelledError) as error:
                    failures += 1
                    await self._wait(error, failures)
                    continue
                if taken < limit:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SWEEP_SECONDS):
                            await self._woken.wait()
                    if self._route.gather_seconds:
                        await asyncio.sleep(self._route.gather_seconds)
                    self._woken.clear()
        finally:
            await self._publisher.close()

    async def _wait(self, error: BaseException, failures: int) -> None:
        """Wait before the next attempt; raises if there must not be one."""
        permanent = isinstance(error, asyncpg.PostgresError) and not is_transient(error)
        if is_being_cancelled() or permanent:
            raise error
        delay = min(0.1 * 2 ** min(failures, 6), 3.0)
        log.warning(
            "relay.waiting",
            outbox=self._route.outbox,
            error=repr(error),
            failures=failures,
            delay=delay,
        )
        await asyncio.sleep(delay)

    async def move(self, limit: int | None = None) -> int:
        """Publish up to `limit` waiting rows (TAKE_LIMIT) in one transaction; returns how many events were taken.

        Waits until a transaction of this relay that is in progress has ended. Raises BrokerAwayError, what
        `Publisher.publish` raises, or what the database raises. The rows then stay in the outbox, except perhaps after
        CommitUnknownError; at worst their events are published twice.
        """
        async with self._one_at_a_time, transaction(self._pool) as tx:
            rows = await take(tx, limit or TAKE_LIMIT, self._route)
            if not rows:
                return 0
            self._reached("before_publish", rows)
            batches = list(message_batches(rows))
            results = await self._publish(batches)
            self._reached("after_confirm", rows)
            if failed := [(b, e) for b, e in zip(batches, results, strict=True) if e is not None]:
                await self._put_back(tx, failed, of=len(batches))
            self._reached("before_commit", rows)
        self._reached("after_commit", rows)
        for batch, error in zip(batches, results, strict=True):
            if error is None:
                PUBLISHED.labels(self._route.outbox, batch[0].exchange).inc(_events(batch))
        self._on_published()
        return _events(rows)

    async def _put_back(
        self, tx: Transaction, failed: Sequence[tuple[MessageBatch, BaseException]], of: int
    ) -> None:
        """Write the rows that were not confirmed to the outbox again; their retry does not delay other rows.

        Raises BrokerAwayError if nothing was confirmed, unless the broker answered every publish by returning or
        refusing the message; always if all rows go to one queue. What AMQP cannot carry stays out of that queue.
        """
        for batch, error in failed:
            FAILED.labels(self._route.outbox, reason(error)).inc(_events(batch))
            log.error(
                "relay.not_confirmed",
                reason=reason(error),
                error=repr(error),
                events=_events(batch),
                outbox=self._route.outbox,
                exchange=batch[0].exchange,
                routing_key=batch[0].routing_key,
            )
        answered = len(failed) < of or {reason(e) for _, e in failed} <= {RETURNED, REFUSED, UNFIT}
        if self._route.one_queue and {reason(e) for _, e in failed} == {UNFIT}:
            return
        if self._route.one_queue or not answered:
            raise BrokerAwayError(repr(failed[0][1]))
        ids = [row.id for batch, _ in failed for row in batch]
        retry_at = tx.now + timedelta(seconds=RETRY_SECONDS)
        await tx.insert([Outbox(id=id, retry_at=retry_at) for id in ids])
        await tx.execute(NOT_PUBLISHED, ids)

    def _reached(self, point: str, rows: Sequence[Row]) -> None:
        if crash_points.ARMED:
            types = {row.attributes["type"] for row in rows}
            crash_points.reached(f"{self._route.crash_points}.{point}", types)

    async def _publish(self, batches: Sequence[MessageBatch]) -> list[BaseException | None]:
        messages = [publication(batch, self._route.prefix) for batch in batches]
        try:
            results = await self._publisher.publish(messages)
        except BaseException as error:
            self.failures.add(error)
            raise
        faults = [error for error in results if error is not None and reason(error) != UNFIT]
        if faults and all(results):
            self.failures.add(faults[0])
        elif self.failures.error is not None:
            self.failures.clear()
        return results


def _events(rows: Sequence[Row]) -> int:
    return sum(row.events for row in rows)


async def take(tx: Transaction, limit: int, route: Route = TO_SUBSCRIBERS) -> list[Row]:
    """Delete up to `limit` ids from an outbox and return their rows of the event log, oldest first.

    An id without a row, which only a partial restore can leave, is counted and logged: there is nothing to publish.

    The deletion is undone if the transaction rolls back. Rows that another relay has locked are skipped. The query
    selects what is unpublished, never "what follows the last id": rows do not commit in the order of their ids.
    """
    records = await tx.fetch(route.take, limit)
    if lost := [str(record["id"]) for record in records if record["events"] is None]:
        FAILED.labels(route.outbox, ROW_MISSING).inc(len(lost))
        log.critical("relay.row_missing", outbox=route.outbox, ids=lost)
    return sorted(Row(*record.values()) for record in records if record["events"] is not None)
