"""The thin event, its exchange and queue, and the connection of publisher and consumer.

A malformed event is dead-lettered to the queue `events_for_notifications.dead`.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Final, Literal
from uuid import UUID

import aio_pika
import stamina
from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractRobustConnection
from aio_pika.connection import make_url
from pamqp.common import FieldTable

from bench.baselines.common import Service
from chassis.database.pool import START_SECONDS
from chassis.messaging.errors import connection_may_be_lost
from events.base import State

EXCHANGE: Final = "events_for_notifications.orders"
ROUTING_KEY: Final = "order-settled"
QUEUE: Final = "events_for_notifications.notifications.order-settled"
DEAD: Final = "events_for_notifications.dead"

DELIVERY_LIMIT: Final = 100
"""Deliveries before the broker dead-letters a message."""


class OrderSettled(State):
    """An order is paid or rejected."""

    order_id: UUID
    outcome: Literal["paid", "rejected"]


@contextlib.asynccontextmanager
async def connection(service: Service) -> AsyncIterator[AbstractRobustConnection]:
    """A connection that reconnects by itself. Exchange and queue are declared. Closed at the end of the block."""
    url = make_url(service.settings.broker_url(service.name)).update_query(
        heartbeat="10", name=service.name
    )
    async for attempt in stamina.retry_context(on=OSError, attempts=None, timeout=START_SECONDS):
        with attempt, connection_may_be_lost():
            made = await aio_pika.connect_robust(url)

    async def fault() -> str:
        return "" if made.connected.is_set() else "not connected"

    try:
        channel = await made.channel()
        await _declare(channel)
        await channel.close()
        service.checks["broker"] = fault
        yield made
    finally:
        await made.close()


async def _declare(channel: AbstractChannel) -> None:
    await channel.declare_queue(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    arguments: FieldTable = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": DEAD,
        "x-delivery-limit": DELIVERY_LIMIT,
    }
    queue = await channel.declare_queue(QUEUE, durable=True, arguments=arguments)
    await queue.bind(exchange, ROUTING_KEY)
