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
from bench.baselines.parts.callees import CalleeAwayError, callees
from bench.baselines.parts.documents import Decision, LetterWish
from bench.baselines.parts.orders import Checkout
from events.base import Causation

log = structlog.get_logger(__name__)

PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Seconds before a letter is asked for again."""


class WithLetters(Checkout):
    """Has a letter written about each decision."""

    def __init__(self) -> None:
        self._again: set[asyncio.Task[None]] = set()

    async def on_decision(self, order: Order, decision: Decision, cause: Causation) -> None:
        """Ask for the letter; an outcome does not wait for notifications to come back."""
        wish = LetterWish(order=order.state(), decision=decision).model_dump_json()
        try:
            await callees.post("notifications", "/internal/letter", wish, cause)
        except CalleeAwayError as error:
            log.warning("orders.letter_delayed", order_id=str(order.id), error=str(error))
            task = asyncio.create_task(self._ask_again(order, wish, cause))
            self._again.add(task)
            task.add_done_callback(self._again.discard)

    async def _ask_again(self, order: Order, wish: str, cause: Causation) -> None:
        for pause in PAUSES:
            await asyncio.sleep(pause)
            with contextlib.suppress(CalleeAwayError):
                await callees.post("notifications", "/internal/letter", wish, cause)
                return
        log.error("orders.letter_lost", order_id=str(order.id))

    @contextlib.asynccontextmanager
    async def asking(self, _: Service) -> AsyncIterator[None]:
        """A part of orders: says at the end how many letters are lost with this process."""
        yield
        if self._again:
            log.error("orders.letters_lost", letters=len(self._again))
        for task in self._again:
            task.cancel()


checkout = WithLetters()

app = create_app(
    "orders",
    [checkout.router()],
    [callees.open, keys.fetched, checkout.asking, checkout.swept],
)
