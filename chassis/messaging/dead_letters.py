"""Dead-lettering: publishing what cannot be processed to the service's dead-letter queue before it is acknowledged.

A dead-lettered message is one event as a plain message in the queue `<service>.dead`, with headers for the queue,
exchange and routing key it came from, the error, the traceback and the number of attempts.

What cannot be published at once, in a flood or into a full dead-letter queue, is left to the broker: the consumer
rejects the message, and the broker keeps it in its queue until the dead-letter queue takes it. So nothing is lost, and
no consumer waits. Decision record 30 has the reasons.
"""

import asyncio
import logging
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import aio_pika
import structlog
from aio_pika.abc import HeadersType
from prometheus_client import Counter
from pydantic import ValidationError

from chassis import crash_points
from chassis.messaging.errors import Failures
from chassis.messaging.failure_log import FailureLog
from chassis.messaging.message import printable
from chassis.messaging.publisher import Publication, Publisher
from chassis.messaging.topology import DEAD
from events.base import rfc3339

log = structlog.get_logger(__name__)

TRACEBACK_LIMIT: Final = 8_000
"""Characters of the traceback that are kept, from its end."""

PUBLISHING_LIMIT: Final = 8
"""The most messages whose failed events are published at a time. A consumer holds twice as many messages: good events
go on during a flood of others."""

DEAD_LETTERED = Counter("chorus_dead_lettered_total", "Messages dead-lettered.", ["queue"])
LEFT_TO_BROKER = Counter(
    "chorus_dead_letters_left_to_broker_total",
    "Messages that the broker dead-letters: in a flood, or while the dead-letter queue takes none.",
    ["queue"],
)


def with_reason(
    message: aio_pika.Message,
    *,
    queue: str,
    exchange: str,
    key: str,
    error: BaseException,
    attempts: int,
) -> aio_pika.Message:
    """The message with headers for its origin and for the reason of its dead-lettering."""
    text = printable(f"{type(error).__name__}: {error}")
    malformed = isinstance(error, ValidationError)  # its traceback has nothing but our own parser
    trace = text if malformed else printable("".join(traceback.format_exception(error)))
    reason: HeadersType = {
        "dead_letter_queue": queue,
        "dead_letter_exchange": exchange,
        "dead_letter_routing_key": key,
        "dead_letter_error": text[:1000],
        "dead_letter_traceback": trace[-TRACEBACK_LIMIT:],
        "dead_letter_attempts": attempts,
        "dead_letter_at": rfc3339(datetime.now(UTC)),
    }
    message.headers = {**message.headers, **reason}
    return message


class DeadLetterQueue:
    """The dead-letter queue of one service."""

    def __init__(self, service: str, publisher: Publisher) -> None:
        self._service = service
        self._publisher = publisher
        self._in_flight = 0
        self._waiting = False
        """Whether one message is published again until it is confirmed."""
        self.failures = Failures()
        """Of attempts to publish."""
        self._log = FailureLog(log, logging.ERROR)

    async def put(self, messages: Sequence[aio_pika.Message], queue: str) -> bool:
        """Publish the failed events of one message that came from `queue`; returns whether all are confirmed.

        Otherwise the caller must reject the message, so that the broker dead-letters it.
        """
        DEAD_LETTERED.labels(queue).inc(len(messages))
        error = await self._publish(messages)
        if error is not None:
            LEFT_TO_BROKER.labels(queue).inc()
        elif crash_points.ARMED:
            crash_points.reached("dead_letters.after_publish", [m.type or "" for m in messages])
        event = "dead_letters.published" if error is None else "dead_letters.left_to_broker"
        for message in messages:
            reason = str(message.headers.get("dead_letter_error"))
            self._log.add(
                event, queue=queue, error=reason, message_id=message.message_id, why=error
            )
        return error is None

    async def _publish(self, messages: Sequence[aio_pika.Message]) -> str | None:
        """Publish messages; returns why not all of them were confirmed, if so."""
        if self._in_flight >= PUBLISHING_LIMIT:
            return "too many at once"
        if self._waiting:
            return "others wait for the queue"
        self._in_flight += 1
        try:
            messages, error = await self._attempt(messages)
            return None if error is None else await self._insist(messages, error)
        finally:
            self._in_flight -= 1

    async def _insist(
        self, messages: Sequence[aio_pika.Message], error: BaseException
    ) -> str | None:
        """Publish messages until they are confirmed, unless others are; returns as `_publish` does."""
        if self._waiting:
            return repr(error)
        self._waiting = True
        failures = 0
        latest: BaseException | None = error
        try:
            while latest is not None:
                failures += 1
                log.warning("dead_letters.waiting", error=repr(latest), failures=failures)
                await asyncio.sleep(min(0.1 * 2 ** min(failures, 6), 5.0))
                messages, latest = await self._attempt(messages)
        finally:
            self._waiting = False
        return None

    async def _attempt(
        self, messages: Sequence[aio_pika.Message]
    ) -> tuple[Sequence[aio_pika.Message], BaseException | None]:
        """Publish messages; returns those that were not confirmed, and the error of the first."""
        try:
            errors = await self._publisher.publish(
                [Publication(DEAD, self._service, m) for m in messages]
            )
        except (OSError, aio_pika.exceptions.AMQPError) as failure:
            errors = [failure] * len(messages)
        failed = [(m, e) for m, e in zip(messages, errors, strict=True) if e is not None]
        if not failed:
            self.failures.clear()
            return [], None
        self.failures.add(failed[0][1])
        return [message for message, _ in failed], failed[0][1]
