"""Under overload one order comes in for each that is settled; else all come in."""

import asyncio
from datetime import UTC, datetime

import pytest

from apps.common.problems import Unavailable
from apps.orders.admission import ADVANCE, SLOW, STANDSTILL_SECONDS, Admission

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATE = NOW - 2 * SLOW
SOON = NOW - SLOW / 10


class Door:
    """A door with a clock that stands still."""

    def __init__(self) -> None:
        self.time = 0.0
        self.admission = Admission(lambda: self.time)

    def settled(self, *placed_at: datetime) -> None:
        self.admission.settled(placed_at, NOW)

    def let_in(self, orders: int) -> int:
        return sum(self._comes_in() for _ in range(orders))

    def _comes_in(self) -> bool:
        try:
            asyncio.run(self.admission.enter())
        except Unavailable:
            return False
        return True


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def slow(door: Door) -> Door:
    """The flow is slow, and what could come in in advance has come in."""
    door.settled(LATE)
    assert door.let_in(2 * ADVANCE) == ADVANCE
    return door


def test_everybody_comes_in_while_orders_settle_soon(door: Door) -> None:
    door.settled(SOON)
    assert door.let_in(2 * ADVANCE) == 2 * ADVANCE


def test_everybody_comes_in_before_the_first_outcome(door: Door) -> None:
    assert door.let_in(2 * ADVANCE) == 2 * ADVANCE


@pytest.mark.parametrize("outcomes", [1, 64])
def test_in_a_slow_flow_one_comes_in_for_each_outcome(slow: Door, outcomes: int) -> None:
    slow.settled(*[LATE] * outcomes)
    assert slow.let_in(100) == outcomes


def test_a_flow_that_is_slow_without_a_backlog_refuses_nobody(door: Door) -> None:
    for _ in range(10):
        assert door.let_in(ADVANCE) == ADVANCE
        door.settled(*[LATE] * ADVANCE)


def test_one_late_order_among_others_is_no_overload(slow: Door) -> None:
    slow.settled(LATE, SOON, SOON)
    assert slow.let_in(ADVANCE) == ADVANCE


def test_credit_is_not_saved_up(slow: Door) -> None:
    slow.settled(*[LATE] * 3 * ADVANCE)
    assert slow.let_in(2 * ADVANCE) == ADVANCE


def test_a_flow_that_is_interrupted_refuses_nobody(slow: Door) -> None:
    slow.time += STANDSTILL_SECONDS
    assert slow.let_in(100) == 100


def test_who_is_refused_is_told_when_to_come_again(slow: Door) -> None:
    with pytest.raises(Unavailable) as refused:
        asyncio.run(slow.admission.enter())
    assert refused.value.headers == {"Retry-After": "1"}


def test_an_outcome_of_nothing_says_nothing(door: Door) -> None:
    door.settled()
    assert door.let_in(2 * ADVANCE) == 2 * ADVANCE
