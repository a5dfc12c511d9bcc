"""Orders, over HTTP only: billing decides an order, notifications stores the notification, then the outcome is stored.

A failed request to notifications is retried in the background, at growing intervals.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import structlog

from apps.orders.models import Order
from bench.baselines.common import Service, create_app
from bench.baselines.parts import keys
from bench.baselines.parts.messages import Decision, NotificationRequest
from bench.baselines.parts.orders import Checkout
from bench.baselines.parts.services import ServiceUnavailableError, services
from events.base import Causation

log = structlog.get_logger(__name__)

PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds before each retry."""


class NotifyingCheckout(Checkout):
    """Requests a notification about each decision."""

    def __init__(self) -> None:
        self._retries: set[asyncio.Task[None]] = set()

    async def on_decision(self, order: Order, decision: Decision, cause: Causation) -> None:
        """Request the notification. If notifications is unavailable, retry in the background."""
        request = NotificationRequest(order=order.state(), decision=decision).model_dump_json()
        try:
            await services.post("notifications", "/internal/notification", request, cause)
        except ServiceUnavailableError as error:
            log.warning("orders.notification_delayed", order_id=str(order.id), error=str(error))
            task = asyncio.create_task(self._retry(order, request, cause))
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)

    async def _retry(self, order: Order, request: str, cause: Causation) -> None:
        for pause in PAUSES:
            await asyncio.sleep(pause)
            with contextlib.suppress(ServiceUnavailableError):
                await services.post("notifications", "/internal/notification", request, cause)
                return
        log.error("orders.notification_lost", order_id=str(order.id))

    @contextlib.asynccontextmanager
    async def retrying(self, _: Service) -> AsyncIterator[None]:
        """A part of orders: at the end it logs how many notifications are lost with this process."""
        yield
        if self._retries:
            log.error("orders.notifications_lost", notifications=len(self._retries))
        for task in self._retries:
            task.cancel()


checkout = NotifyingCheckout()

app = create_app(
    "orders",
    [checkout.router()],
    [services.open, keys.refreshing, checkout.retrying, checkout.sweeping],
)
