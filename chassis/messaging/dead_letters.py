"""Dead-lettering: publishing what cannot be processed to the service's dead-letter queue before it is acknowledged.

A dead-lettered message is one event as a plain message in the queue `<service>.dead`, with headers for the queue,
exchange and routing key it came from, the error, the traceback and the number of attempts.

Failed events of concurrent messages are published side by side, on one channel. While the dead-letter queue is full, or
is not there, the consumer rejects messages instead: the broker keeps them until the queue takes them. So nothing is
lost, and good events of the same queue go on. So it is with a message that cannot be published again: properties that
are not decoded, or headers that leave no room for the reason in a frame. Decision records 30 and 37 have the reasons.
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
from chassis.messaging.publisher import REFUSED, RETURNED, UNFIT, Publication, Publisher, reason
from chassis.messaging.topology import dead_letter_exchange
from events.base import rfc3339

log = structlog.get_logger(__name__)

TRACEBACK_LIMIT: Final = 8_000
"""Characters of the traceback that are kept, from its end."""

REFUSALS: Final = 3
"""Attempts that the dead-letter queue may refuse, one after another, before messages are left to the broker. A single
one says little: RabbitMQ 3.10 refuses on an old channel once a queue has a new leader."""

DEAD_LETTERED = Counter("chorus_dead_lettered_total", "Messages dead-lettered.", ["queue"])
LEFT_TO_BROKER = Counter(
    "chorus_dead_letters_left_to_broker_total",
    "Messages that the broker dead-letters, as the service cannot.",
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
    explanation: HeadersType = {
        "dead_letter_queue": queue,
        "dead_letter_exchange": exchange,
        "dead_letter_routing_key": key,
        "dead_letter_error": text[:1000],
        "dead_letter_traceback": trace[-TRACEBACK_LIMIT:],
        "dead_letter_attempts": attempts,
        "dead_letter_at": rfc3339(datetime.now(UTC)),
    }
    message.headers = {**message.headers, **explanation}
    return message


class DeadLetterQueue:
    """The dead-letter queue of one service."""

    def __init__(self, service: str, publisher: Publisher) -> None:
        self._service = service
        self._exchange = dead_letter_exchange(service)
        self._publisher = publisher
        self._refusals = 0
        """Attempts since the queue has taken a message that it did not take."""
        self.failures = Failures()
        self._log = FailureLog(log, logging.ERROR)

    async def put(self, messages: Sequence[aio_pika.Message], queue: str) -> bool:
        """Publish the failed events of one message that came from `queue`; returns whether all are confirmed.

        Waits while the broker is away. If False the caller must reject the message, so that the broker dead-letters it.
        """
        error = await self._publish(messages, queue)
        DEAD_LETTERED.labels(queue).inc(len(messages))
        if error is not None:
            LEFT_TO_BROKER.labels(queue).inc()
        elif crash_points.ARMED:
            crash_points.reached("dead_letters.after_publish", [m.type or "" for m in messages])
        event = "dead_letters.published" if error is None else "dead_letters.left_to_broker"
        for message in messages:
            self._log.add(
                event,
                queue=queue,
                error=str(message.headers.get("dead_letter_error")),
                message_id=message.message_id,
                why=error,
            )
        return error is None

    async def _publish(self, messages: Sequence[aio_pika.Message], queue: str) -> str | None:
        """Publish until all are confirmed, or the queue takes none; returns the error in that case."""
        failures = 0
        while messages:
            messages, error = await self._attempt(messages)
            if error is None:
                break
            if reason(error) == UNFIT:
                return repr(error)
            self.failures.add(error)
            if reason(error) in (REFUSED, RETURNED):
                self._refusals += 1
                if self._refusals > REFUSALS:
                    return repr(error)
            failures += 1
            log.warning("dead_letters.waiting", queue=queue, error=repr(error), failures=failures)
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 6), 5.0))
        self._refusals = 0
        self.failures.clear()
        return None

    async def _attempt(
        self, messages: Sequence[aio_pika.Message]
    ) -> tuple[Sequence[aio_pika.Message], BaseException | None]:
        """Publish messages; returns those that were not confirmed, and the error of the first."""
        try:
            errors = await self._publisher.publish(
                [Publication(self._exchange, self._service, message) for message in messages]
            )
        except (OSError, aio_pika.exceptions.AMQPError) as failure:
            errors = [failure] * len(messages)
        failed = [
            (m, error) for m, error in zip(messages, errors, strict=True) if error is not None
        ]
        return [message for message, _ in failed], failed[0][1] if failed else None
