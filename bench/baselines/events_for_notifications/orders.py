"""Orders, with events for notifications: calls billing, stores the outcome, then publishes it.

An event that the broker does not confirm within five seconds is lost: the order is settled, and its notification is
never written.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import aio_pika
import structlog
from aio_pika.abc import AbstractExchange, HeadersType
from aio_pika.exceptions import AMQPException
from uuid_utils.compat import uuid7

from apps.orders.models import Order
from bench.baselines.common import Service, create_app
from bench.baselines.events_for_notifications import events
from bench.baselines.parts import keys
from bench.baselines.parts.orders import Checkout
from bench.baselines.parts.services import services
from events.base import Causation

log = structlog.get_logger(__name__)

CONFIRM_SECONDS: Final = 5.0


class PublishingCheckout(Checkout):
    """Publishes each outcome after COMMIT."""

    def __init__(self) -> None:
        self._exchange: AbstractExchange | None = None

    async def on_settled(self, order: Order, cause: Causation) -> None:
        """Publish, and await the confirm."""
        assert self._exchange is not None
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await self._exchange.publish(_message(order, cause), events.ROUTING_KEY)
        except (AMQPException, OSError, TimeoutError, RuntimeError) as error:
            log.error(  # noqa: TRY400 - the traceback would add nothing
                "orders.notification_lost", order_id=str(order.id), error=repr(error)
            )

    @contextlib.asynccontextmanager
    async def publishing(self, service: Service) -> AsyncIterator[None]:
        """A part of orders: a connection to the broker."""
        async with events.connection(service) as connection:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            self._exchange = await channel.get_exchange(events.EXCHANGE, ensure=False)
            yield


def _message(order: Order, cause: Causation) -> aio_pika.Message:
    outcome = events.OrderSettled.model_validate({"order_id": order.id, "outcome": order.status})
    headers: HeadersType = {"traceparent": cause.traceparent} if cause.traceparent else {}
    return aio_pika.Message(
        outcome.model_dump_json().encode(),
        headers=headers,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=str(uuid7()),
        correlation_id=cause.correlation_id,
        type="OrderSettled",
        app_id="orders",
    )


checkout = PublishingCheckout()

app = create_app(
    "orders",
    [checkout.router(), checkout.internal()],
    [services.open, keys.refreshing, checkout.publishing, checkout.sweeping],
)
