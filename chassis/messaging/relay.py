"""The relay: the only way from the outbox to the broker.

One loop per process. It takes waiting rows out of the table, publishes them in packs, awaits every confirm, and only
then commits: a confirmed event leaves the table in the same breath, and a crash at any point leaves it for the next
relay. An event can therefore be published twice, and never not at all; the inbox makes twice into once.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import asyncpg
import structlog
from aio_pika.exceptions import DeliveryError, PublishError
from prometheus_client import Counter, Gauge

from chassis.database.transaction import Pool, Transaction, begin
from chassis.messaging import message as wire
from chassis.messaging import outbox
from chassis.messaging.errors import is_being_cancelled, is_transient
from chassis.messaging.outbox import Row
from chassis.messaging.publisher import Publication, Publisher
from chassis.runtime import crash_points as crash
from chassis.signal import Signal

log = structlog.get_logger(__name__)

TAKE_LIMIT: Final = 1024
"""Rows per transaction: 16 full packs."""

SWEEP_SECONDS: Final = 1.0
"""How often the table is looked at when nobody wakes the relay: finds what a crash left behind."""

RETRY_SECONDS: Final = 5.0
"""How long a row rests that the broker returned or refused."""

PUBLISHED = Counter("chorus_relay_published_total", "Events confirmed by the broker.", ["exchange"])
FAILED = Counter("chorus_relay_failed_total", "Events whose publish was not confirmed.", ["reason"])
for _reason in (PublishError, DeliveryError, TimeoutError):
    FAILED.labels(_reason.__name__)  # there from the start, so that the first failure is a rise
UNROUTABLE = Gauge("chorus_relay_unroutable", "Events of the last attempt that no queue takes.")


class BrokerAwayError(Exception):
    """No publish of a whole round was confirmed."""


class Relay:
    """Moves events from the outbox of one database to the broker, for as long as it runs."""

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
        """Relay until cancelled. A database or broker that is away is waited for, with backoff.

        Raises asyncpg.PostgresError if the database refuses for good: a table that is missing, a right.
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
                        raise  # the database is there and says no: waiting would hide it
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
        """Publish what waits, up to TAKE_LIMIT rows, in one transaction; returns how many rows were taken.

        Waits for the round that this relay is in: what that one has taken is told as well, or waits again.
        Raises BrokerAwayError, what `Publisher.publish` raises, or what the database raised. The rows then stay in the
        outbox, except perhaps after CommitUnknownError; that they are published twice is the worst.
        """
        async with self._one_at_a_time:
            return await self._move()

    async def _move(self) -> int:
        async with begin(self._pool) as tx:
            rows = await outbox.take(tx, TAKE_LIMIT)
            if not rows:
                return 0
            _reached("before_publish", rows)
            message_batches = list(wire.message_batches(rows))
            results = await self._publisher.publish(
                [_publication(batch) for batch in message_batches]
            )
            _reached("after_confirm", rows)
            self._put_back(tx, message_batches, results)
            _reached("before_commit", rows)
        _reached("after_commit", rows)
        for batch, result in zip(message_batches, results, strict=True):
            if result is None:
                PUBLISHED.labels(batch[0].exchange).inc(len(batch))
        return len(rows)

    def _put_back(
        self,
        tx: Transaction,
        message_batches: Sequence[list[Row]],
        results: Sequence[BaseException | None],
    ) -> None:
        failed = [
            (p, error)
            for p, error in zip(message_batches, results, strict=True)
            if error is not None
        ]
        for batch, error in failed:
            FAILED.labels(type(error).__name__).inc(len(batch))
            log.error(
                "relay.not_confirmed",
                error=repr(error),
                events=len(batch),
                exchange=batch[0].exchange,
                routing_key=batch[0].routing_key,
            )
        UNROUTABLE.set(sum(len(p) for p, error in failed if isinstance(error, PublishError)))
        # A broker that returns or refuses is there; one that says nothing is not.
        if len(failed) == len(message_batches) and not all(
            isinstance(e, DeliveryError) for _, e in failed
        ):
            raise BrokerAwayError(repr(failed[0][1]))
        # The others are confirmed and must go; these rest, so that they hold nobody up.
        retry_at = tx.now + timedelta(seconds=RETRY_SECONDS)
        tx.outbox += [row._replace(retry_at=retry_at) for batch, _ in failed for row in batch]


def _reached(point: str, rows: Sequence[Row]) -> None:
    if crash.ARMED:
        crash.reached(f"relay.{point}", {row.attributes["type"] for row in rows})


def _publication(batch: Sequence[Row]) -> Publication:
    return batch[0].exchange, batch[0].routing_key, wire.to_message(batch)
