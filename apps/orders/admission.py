"""Admission control: under overload, admits only as many orders as can be settled in time.

The HTTP API can accept more orders than the services settle, and a backlog delays every later order. While orders
settle slowly, the number in flight is limited to what is settled within the target time; other orders are refused at
once, which costs little. docs/adr/0020 has the measurements.

Orders settle almost in the order of arrival. So the orders in flight are those that arrived after the one that has just
settled, and the throughput is the number of outcomes since its arrival. No counter can drift with orders that are
refused later or outcomes that another replica consumes.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from statistics import median_high
from typing import Final, NamedTuple

from prometheus_client import Counter

from chassis.database.transaction import Transaction
from chassis.web.problems import Unavailable
from events.orders import OrderPaid, OrderRejected

TARGET: Final = timedelta(seconds=0.25)
"""The time to settle above which the median of a batch indicates a backlog. Without a backlog, at half of the highest
sustainable rate, it is a fifth of that."""

TARGET_FACTOR: Final = 4
"""The target is at least so many times the fastest batch, for slow networks and disks."""

TARGET_LIMIT: Final = timedelta(seconds=1)
"""The highest target, and the one before the first batch: a service may start with a backlog."""

ALWAYS_ADMITTED: Final = 256
"""Orders that may be in flight however long they take."""

LEAST_TIME: Final = timedelta(milliseconds=1)
"""The least time to settle; clocks of two machines that differ, or one that was set back, may show less."""

RECOVERY_SECONDS: Final = 1.0
"""The time after the last refusal during which the limit stays, so that refused clients do not return all at once."""

INTERRUPTED_SECONDS: Final = 2.0
"""The time without an outcome after which settling counts as interrupted, not slow. Then orders are admitted and wait,
since customers need not notice that billing or the broker is down."""

ARRIVALS_LIMIT: Final = 65_536
"""The most arrivals that are kept; during an interruption there may be more orders in flight."""

REFUSAL: Final = Unavailable("More orders are in progress than can be settled in time.")

REFUSED = Counter("chorus_orders_refused_total", "Orders refused by admission control.")


class _Arrival(NamedTuple):
    """The clock's time at which an order arrived, and the number of outcomes before it."""

    at: float
    outcomes: int


class Admission:
    """Admits all orders while they settle in time, peaks included; otherwise as many as will.

    Each replica counts for itself: the broker distributes outcomes over all replicas, as a load balancer does with
    orders.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._target = TARGET_LIMIT
        self._slow = False
        self._room = 0
        """The orders that are admitted before the next outcomes, while the limit applies."""
        self._arrivals: deque[_Arrival] = deque(maxlen=ARRIVALS_LIMIT)
        self._last_settled = _Arrival(clock(), 0)
        """The latest arrival whose order is settled."""
        self._outcomes = 0
        self._outcome_at = self._refused_at = -math.inf

    def committed(self, tx: Transaction) -> None:
        """Record the outcomes in a committed transaction."""
        orders = [e.order for e in tx.events if isinstance(e, OrderPaid | OrderRejected)]
        if orders:
            self.settled([order.placed_at for order in orders], tx.now)

    def settled(self, placed_at: Sequence[datetime], now: datetime) -> None:
        """Record the outcomes of a batch of orders, at least one, by the times at which they were placed."""
        took = max(LEAST_TIME, now - median_high(placed_at))
        self._target = max(TARGET, min(self._target, took * TARGET_FACTOR))
        self._slow = took > self._target
        self._outcomes += len(placed_at)
        self._outcome_at = self._clock()
        while self._arrivals and self._arrivals[0].at <= self._outcome_at - took.total_seconds():
            self._last_settled = self._arrivals.popleft()
        if self._limited(self._outcome_at):
            self._limit(len(placed_at), took)

    def refusal(self) -> Unavailable | None:
        """Admit one order and return None, or return its refusal if too many are in flight."""
        now = self._clock()
        if self._room <= 0 and self._limited(now) and now - self._outcome_at < INTERRUPTED_SECONDS:
            self._refused_at = now
            REFUSED.inc()
            return REFUSAL
        self._room -= 1
        self._arrivals.append(_Arrival(now, self._outcomes))
        return None

    def _limited(self, now: float) -> bool:
        return self._slow or now - self._refused_at < RECOVERY_SECONDS

    def _limit(self, settled: int, took: timedelta) -> None:
        """Set the room after a batch, by the rate of outcomes since the arrival of the last settled order."""
        since = max(took.total_seconds(), self._outcome_at - self._last_settled.at)
        rate = (self._outcomes - self._last_settled.outcomes) / since
        limit = max(ALWAYS_ADMITTED, round(rate * self._target.total_seconds()))
        # An excess shrinks gradually: one order is admitted for every two that are settled.
        reduced = max(self._room, 0) + (settled + 1) // 2
        self._room = max(limit - len(self._arrivals), min(reduced, ALWAYS_ADMITTED))
