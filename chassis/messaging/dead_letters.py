"""Parking: what cannot be handled is set aside with its reason, and acknowledged only once that is confirmed.

A parked message is the event as a plain message, whole, in the service's `<service>.dead` queue, with headers that
tell the origin queue, the error, the traceback and the number of attempts.
"""

import asyncio
import traceback
from datetime import UTC, datetime
from typing import Final

import aio_pika
import structlog
from aio_pika.abc import HeadersType
from prometheus_client import Counter

from chassis.messaging.message import printable
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import DEAD
from chassis.runtime import crash_points as crash
from events.base import rfc3339

log = structlog.get_logger(__name__)

TRACEBACK_LIMIT: Final = 8_000
"""Characters of traceback that are kept, from the end."""

PARKED = Counter("chorus_parked_total", "Messages set aside.", ["queue"])


def explained(
    message: aio_pika.Message,
    *,
    queue: str,
    exchange: str,
    key: str,
    error: Exception,
    attempts: int,
) -> aio_pika.Message:
    """The message with the headers that say where it comes from and why it is parked."""
    trace = printable("".join(traceback.format_exception(error)))[-TRACEBACK_LIMIT:]
    reason: HeadersType = {
        "parked_queue": queue,
        "parked_exchange": exchange,
        "parked_routing_key": key,
        "parked_error": printable(f"{type(error).__name__}: {error}")[:1000],
        "parked_traceback": trace,
        "parked_attempts": attempts,
        "parked_at": rfc3339(datetime.now(UTC)),
    }
    message.headers = {**message.headers, **reason}
    return message


class Parking:
    """Where one service parks messages."""

    def __init__(self, service: str, publisher: Publisher) -> None:
        self._service = service
        self._publisher = publisher
        self._one_at_a_time = asyncio.Lock()

    async def park(self, message: aio_pika.Message, queue: str) -> None:
        """Publish to the service's dead queue; returns once confirmed, however long the broker is away."""
        failures = 0
        while (error := await self._publish(message)) is not None:
            failures += 1
            log.warning("parking.waiting", queue=queue, error=repr(error), failures=failures)
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 6), 5.0))
        if crash.ARMED:
            crash.reached("parking.after_publish", [message.type or ""])
        PARKED.labels(queue).inc()
        log.error(
            "parking.parked",
            queue=queue,
            message_id=message.message_id,
            error=str(message.headers.get("parked_error")),
        )

    async def _publish(self, message: aio_pika.Message) -> BaseException | None:
        async with self._one_at_a_time:
            try:
                [error] = await self._publisher.publish([(DEAD, self._service, message)])
            except (OSError, aio_pika.exceptions.AMQPError) as failure:
                error = failure
            if error is not None:
                await self._publisher.close()
            return error
