"""Dead-lettering: publishing what cannot be processed to the service's dead-letter queue before it is acknowledged.

A dead-lettered message is one event as a plain message in the queue `<service>.dead`, with headers for the queue,
exchange and routing key it came from, the error, the traceback and the number of attempts.
"""

import asyncio
import traceback
from datetime import UTC, datetime
from typing import Final

import aio_pika
import structlog
from aio_pika.abc import HeadersType
from prometheus_client import Counter

from chassis import crash_points
from chassis.messaging.errors import Failures
from chassis.messaging.message import printable
from chassis.messaging.publisher import Publication, Publisher
from chassis.messaging.topology import DEAD
from events.base import rfc3339

log = structlog.get_logger(__name__)

TRACEBACK_LIMIT: Final = 8_000
"""Characters of the traceback that are kept, from its end."""

DEAD_LETTERED = Counter("chorus_dead_lettered_total", "Messages dead-lettered.", ["queue"])


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
    trace = printable("".join(traceback.format_exception(error)))[-TRACEBACK_LIMIT:]
    reason: HeadersType = {
        "dead_letter_queue": queue,
        "dead_letter_exchange": exchange,
        "dead_letter_routing_key": key,
        "dead_letter_error": printable(f"{type(error).__name__}: {error}")[:1000],
        "dead_letter_traceback": trace,
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
        self._one_at_a_time = asyncio.Lock()
        self.failures = Failures()

    async def put(self, message: aio_pika.Message, queue: str) -> None:
        """Publish a message that came from `queue`; retries until the broker has confirmed it."""
        failures = 0
        while (error := await self._publish(message)) is not None:
            failures += 1
            self.failures.add(error)
            log.warning("dead_letters.waiting", queue=queue, error=repr(error), failures=failures)
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 6), 5.0))
        self.failures.clear()
        if crash_points.ARMED:
            crash_points.reached("dead_letters.after_publish", [message.type or ""])
        DEAD_LETTERED.labels(queue).inc()
        log.error(
            "dead_letters.published",
            queue=queue,
            message_id=message.message_id,
            error=str(message.headers.get("dead_letter_error")),
        )

    async def _publish(self, message: aio_pika.Message) -> BaseException | None:
        async with self._one_at_a_time:
            try:
                publication = Publication(DEAD, self._service, message)
                [error] = await self._publisher.publish([publication])
            except (OSError, aio_pika.exceptions.AMQPError) as failure:
                return failure
            return error
