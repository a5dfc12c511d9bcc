"""Orders, over HTTP only: billing decides about an order, notifications writes the letter, then the outcome is stored.

A letter that notifications does not take at once is asked for again in the background, more and more rarely.
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
"""Seconds before a letter is asked for again."""


class NotifyingCheckout(Checkout):
    """Has a letter written about each decision."""

    def __init__(self) -> None:
        self._again: set[asyncio.Task[None]] = set()

    async def on_decision(self, order: Order, decision: Decision, cause: Causation) -> None:
        """Ask for the letter; an outcome does not wait for notifications to come back."""
        request = NotificationRequest(order=order.state(), decision=decision).model_dump_json()
        try:
            await services.post("notifications", "/internal/notification", request, cause)
        except ServiceUnavailableError as error:
            log.warning("orders.notification_delayed", order_id=str(order.id), error=str(error))
            task = asyncio.create_task(self._ask_again(order, request, cause))
            self._again.add(task)
            task.add_done_callback(self._again.discard)

    async def _ask_again(self, order: Order, request: str, cause: Causation) -> None:
        for pause in PAUSES:
            await asyncio.sleep(pause)
            with contextlib.suppress(ServiceUnavailableError):
                await services.post("notifications", "/internal/notification", request, cause)
                return
        log.error("orders.notification_lost", order_id=str(order.id))

    @contextlib.asynccontextmanager
    async def retrying(self, _: Service) -> AsyncIterator[None]:
        """A part of orders: says at the end how many letters are lost with this process."""
        yield
        if self._again:
            log.error("orders.notifications_lost", notifications=len(self._again))
        for task in self._again:
            task.cancel()


checkout = NotifyingCheckout()

app = create_app(
    "orders",
    [checkout.router()],
    [services.open, keys.refreshing, checkout.retrying, checkout.sweeping],
)
