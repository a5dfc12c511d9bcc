"""Admission control: no more orders come in than go out, once they take long to settle.

A backlog is latency for everybody behind it. The front door takes in more orders than the whole flow behind it can
settle, so under overload the door must wait for the flow: while orders take long, each outcome that arrives lets one
new order in, and the others are refused at once, which costs them and us little. Decision 20 tells what that gives.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from prometheus_client import Counter

from apps.common.problems import Unavailable

SLOW: Final = timedelta(seconds=0.5)
"""Orders that take longer than this to settle, in the middle of a batch, wait behind a backlog. Without one it is a
tenth of that, at the highest rate that can be kept up."""

ADVANCE: Final = 1_024
"""How many orders are let in before the outcomes of others are waited for. Peaks of that size are no overload."""

STANDSTILL_SECONDS: Final = 2.0
"""With no outcome for so long the flow is not slow but interrupted. Then orders are taken in, and wait: that billing or
the broker is away is nothing that a customer need know."""

REFUSED = Counter("chorus_orders_refused_total", "Orders refused for the backlog before them.")


class Admission:
    """Counts orders in and outcomes out. Where all is quick it lets everything in.

    Each replica counts for itself: the broker deals outcomes out to all of them, as a load balancer does with orders.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slow = False
        self._credits = ADVANCE
        self._last_outcome = 0.0

    def settled(self, placed_at: Sequence[datetime], now: datetime) -> None:
        """Outcomes came for orders that were placed then."""
        if not placed_at:
            return
        self._slow = now - sorted(placed_at)[len(placed_at) // 2] > SLOW
        self._last_outcome = self._clock()
        # A flow that is quick again has room for more than one order for one outcome.
        self._credits = min(ADVANCE, self._credits + len(placed_at) * (1 if self._slow else 2))

    async def enter(self) -> None:
        """Let one order in. Raises Unavailable if the flow is slow and no outcome has made room."""
        if self._credits > 0:
            self._credits -= 1
        elif self._slow and self._outcomes_come():
            REFUSED.inc()
            raise Unavailable("More orders are on their way than can be settled in good time.")

    def _outcomes_come(self) -> bool:
        return self._clock() - self._last_outcome < STANDSTILL_SECONDS


admission = Admission()
"""One per process: use cases tell it of outcomes, the route asks it."""
