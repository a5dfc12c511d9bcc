"""Admission control: no more orders come in than go out, once they take long to settle.

A backlog is latency for everybody behind it. The front door takes in more orders than the whole flow behind it can
settle, so under overload the door must wait for the flow. While orders take longer than they should, only so many may
be on their way as the flow settles in that time, and the others are refused at once, which costs them and us little.
Decision 20 tells what that gives.

Orders settle in the order of their coming, or nearly so. Hence those on their way are those that have come since an
order was placed that is settled now; and the flow's rate is what it has settled since. Nothing need be counted that
could be lost: orders that are refused later, outcomes that another replica hears.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from prometheus_client import Counter

from chassis.database.transaction import Transaction
from chassis.web.problems import Unavailable
from events.orders import OrderPaid, OrderRejected

SLOW: Final = timedelta(seconds=0.25)
"""Orders that take longer than this to settle, in the middle of a batch, wait behind a backlog. Without one it is a
fifth of that, at half of the highest rate that can be kept up."""

AS_QUICK: Final = 4
"""A batch is not slow either if it takes less than so many times what the quickest took: a network may be far, or a
disk slow."""

TOO_SLOW: Final = timedelta(seconds=1)
"""A batch that takes longer is slow even if none was ever quicker: a service that starts may find a backlog. So this is
also what the quickest is taken for before there was one."""

ALWAYS: Final = 256
"""So many orders may be on their way however long they take."""

INSTANT: Final = timedelta(milliseconds=1)
"""No order is settled in less; clocks of two machines may say so, or one that was set back."""

CALM_SECONDS: Final = 1.0
"""So long after the last refusal everybody is let in again. Before that all who were refused would rush in."""

STANDSTILL_SECONDS: Final = 2.0
"""With no outcome for so long the flow is not slow but interrupted. Then orders are taken in, and wait: that billing or
the broker is away is nothing that a customer need know."""

REMEMBERED: Final = 65_536
"""Of so many orders on their way is known when they came; more may come while the flow is interrupted."""

TOO_MANY: Final = Unavailable("More orders are on their way than can be settled in good time.")

REFUSED = Counter("chorus_orders_refused_total", "Orders refused for the backlog before them.")


class _Arrival(NamedTuple):
    """An order that came at a time of the clock, and how many outcomes had come before it."""

    at: float
    outcomes: int


class Admission:
    """Lets orders in: all while they settle soon, peaks too; else as many as will.

    Each replica counts for itself: the broker deals outcomes out to all of them, as a load balancer does with orders.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slow = False
        self._quickest = TOO_SLOW
        self._room = 0
        """How many may come in before the next outcomes, while not all may."""
        self._arrivals: deque[_Arrival] = deque(maxlen=REMEMBERED)
        self._settled_last = _Arrival(clock(), 0)
        """The last arrival whose order is settled by now."""
        self._outcomes = 0
        self._outcome_at = self._refused_at = -math.inf

    def committed(self, tx: Transaction) -> None:
        """Take notice of the outcomes in a transaction."""
        outcomes = (event for event in tx.events if isinstance(event, OrderPaid | OrderRejected))
        self.settled([event.order.placed_at for event in outcomes], tx.now)

    def settled(self, placed_at: Sequence[datetime], now: datetime) -> None:
        """Outcomes came for orders that were placed then."""
        if not placed_at:
            return
        took = max(INSTANT, now - sorted(placed_at)[len(placed_at) // 2])
        self._quickest = min(self._quickest, took)
        in_time = min(max(SLOW, self._quickest * AS_QUICK), TOO_SLOW)
        self._slow = took > in_time
        self._outcomes += len(placed_at)
        self._outcome_at = self._clock()
        self._forget_until(self._outcome_at - took.total_seconds())
        if self._slow or self._refused_lately():
            most = max(ALWAYS, round(self._rate(took) * in_time.total_seconds()))
            # What is too much goes away step by step: one order for every two that are settled still comes in.
            still = max(self._room, 0) + (len(placed_at) + 1) // 2
            self._room = max(most - len(self._arrivals), min(still, ALWAYS))

    def refusal(self) -> Unavailable | None:
        """None: one order is let in. Else what it is told, because too many are on their way."""
        now = self._clock()
        if self._room <= 0 and (self._slow or self._refused_lately()) and self._outcomes_come(now):
            self._refused_at = now
            REFUSED.inc()
            return TOO_MANY
        self._room -= 1
        self._arrivals.append(_Arrival(now, self._outcomes))
        return None

    def _forget_until(self, moment: float) -> None:
        while self._arrivals and self._arrivals[0].at <= moment:
            self._settled_last = self._arrivals.popleft()

    def _rate(self, took: timedelta) -> float:
        """How many orders are settled in a second, since one came that is settled now."""
        since = max(took.total_seconds(), self._outcome_at - self._settled_last.at)
        return (self._outcomes - self._settled_last.outcomes) / since

    def _refused_lately(self) -> bool:
        return self._clock() - self._refused_at < CALM_SECONDS

    def _outcomes_come(self, now: float) -> bool:
        return now - self._outcome_at < STANDSTILL_SECONDS
