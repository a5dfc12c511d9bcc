"""Notifications, with thin events: consumes an outcome, requests the data of the notification, and stores it.

A message is acknowledged after its notification is stored; a redelivery changes nothing. While the database or a
service that it calls is unavailable, the message stays unacknowledged and is retried.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import structlog
from aio_pika.abc import AbstractIncomingMessage
from uuid_utils.compat import uuid7

from bench.baselines.common import Service, create_app
from bench.baselines.events_for_notifications import events
from bench.baselines.parts import keys, notifications
from bench.baselines.parts.mailer import sending
from bench.baselines.parts.messages import Decision
from bench.baselines.parts.services import ServiceUnavailableError, services
from chassis.database.errors import is_transient
from events.base import Causation
from events.orders import OrderState

log = structlog.get_logger(__name__)

PREFETCH: Final = 100
RETRY_SECONDS: Final = 0.5

DRAIN_SECONDS: Final = 5.0
"""How long started notifications may take when the process stops."""


class Consumer:
    """Consumes outcomes, up to PREFETCH in parallel."""

    def __init__(self, service: Service) -> None:
        self._pool = service.database.pool
        self._started: set[asyncio.Task[None]] = set()

    async def receive(self, message: AbstractIncomingMessage) -> None:
        """Handle one message until its notification is stored or cannot be."""
        if task := asyncio.current_task():
            self._started.add(task)
            task.add_done_callback(self._started.discard)
        try:
            settled = events.OrderSettled.model_validate_json(message.body)
            await self._write(settled, _causation(message))
        except Exception:
            log.exception("notifications.cannot_write", message=message.message_id)
            await message.reject(requeue=False)
        else:
            await message.ack()

    async def _write(self, settled: events.OrderSettled, cause: Causation) -> None:
        """Store the notification. Retries while a server is unavailable."""
        while True:
            try:
                await self._request_and_write(settled.order_id, cause)
            except Exception as error:
                if not isinstance(error, ServiceUnavailableError) and not is_transient(error):
                    raise
                log.warning("notifications.waiting", order=str(settled.order_id), error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _request_and_write(self, order_id: UUID, cause: Causation) -> None:
        order, decision = await asyncio.gather(
            services.get("orders", f"/internal/order/{order_id}", cause),
            services.get("billing", f"/internal/charge/{order_id}", cause),
        )
        await notifications.write(
            self._pool,
            OrderState.model_validate_json(order),
            Decision.model_validate_json(decision),
            cause,
        )

    async def drain(self) -> None:
        """Wait for started messages. Those that take longer are redelivered."""
        if self._started:
            await asyncio.wait(self._started, timeout=DRAIN_SECONDS)
        for task in self._started:
            task.cancel()


def _causation(message: AbstractIncomingMessage) -> Causation:
    traceparent = message.headers.get("traceparent")
    return Causation(
        message.correlation_id or str(uuid7()),
        UUID(message.message_id) if message.message_id else None,
        str(traceparent) if traceparent else None,
    )


@contextlib.asynccontextmanager
async def consuming(service: Service) -> AsyncIterator[None]:
    """A part of notifications: it consumes outcomes."""
    consumer = Consumer(service)
    async with events.connection(service) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(events.QUEUE, ensure=False)
        tag = await queue.consume(consumer.receive)
        yield
        await queue.cancel(tag)
        await consumer.drain()


app = create_app(
    "notifications", [notifications.router], [services.open, keys.refreshing, sending, consuming]
)
