"""Under overload as many orders come in as are settled in good time; else all come in."""

from datetime import UTC, datetime, timedelta

import pytest

from apps.orders.admission import (
    ALWAYS,
    CALM_SECONDS,
    REFUSED,
    SLOW,
    STANDSTILL_SECONDS,
    TOO_SLOW,
    Admission,
)

MANY = 8 * ALWAYS
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LATE = 2 * SLOW
SOON = SLOW / 10


class Door:
    """A door and a flow behind it, with a clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.time = 0.0
        self.admission = Admission(lambda: self.time)

    def passes(self, time: timedelta) -> None:
        self.time += time.total_seconds()

    def settled(self, *took: timedelta) -> None:
        now = BEGIN + timedelta(seconds=self.time)
        self.admission.settled([now - time for time in took], now)

    def let_in(self, orders: int) -> int:
        return sum(self.admission.refusal() is None for _ in range(orders))


@pytest.fixture
def door() -> Door:
    """A door that has seen an order settle soon."""
    door = Door()
    door.settled(SOON)
    return door


@pytest.fixture
def slow(door: Door) -> Door:
    """The flow is slow, more orders are on their way than it settles in time, and nobody else comes in."""
    door.let_in(1)
    door.passes(SOON)
    assert door.let_in(MANY) == MANY
    door.passes(LATE - SOON)
    door.settled(LATE)
    assert door.let_in(MANY) == 1
    return door


def test_everybody_comes_in_while_orders_settle_soon(door: Door) -> None:
    door.let_in(MANY)
    door.passes(SOON)
    door.settled(SOON)
    assert door.let_in(MANY) == MANY


def test_everybody_comes_in_before_the_first_outcome() -> None:
    assert Door().let_in(MANY) == MANY


def test_an_outcome_of_nothing_says_nothing(door: Door) -> None:
    door.settled()
    assert door.let_in(MANY) == MANY


@pytest.mark.parametrize(("outcomes", "come_in"), [(1, 1), (2, 1), (64, 32)])
def test_too_many_become_fewer_step_by_step(slow: Door, outcomes: int, come_in: int) -> None:
    slow.settled(*[LATE] * outcomes)
    assert slow.let_in(MANY) == come_in


def test_as_many_are_on_their_way_as_are_settled_in_good_time(door: Door) -> None:
    door.let_in(MANY)
    door.passes(LATE)
    door.settled(*[LATE] * MANY)  # all of them in twice the time
    door.let_in(MANY)
    door.passes(LATE)
    door.settled(*[LATE] * (MANY // 2))  # what came in since, which was the half
    assert door.let_in(MANY) == MANY // 4


def test_what_comes_in_between_is_on_its_way(door: Door) -> None:
    door.let_in(MANY)
    door.passes(LATE)
    door.settled(*[LATE] * MANY)
    assert door.let_in(MANY) == MANY // 2
    door.passes(SOON)
    door.settled(*[LATE] * 100)
    assert door.let_in(MANY) == 50


def test_a_few_may_always_be_on_their_way(door: Door) -> None:
    """A flow that has become slow for its network's sake refuses nobody as long as they are few."""
    for _ in range(10):
        assert door.let_in(ALWAYS) == ALWAYS
        door.passes(LATE)
        door.settled(*[LATE] * ALWAYS)
    assert door.let_in(MANY) == ALWAYS


def test_a_flow_that_was_never_quick_is_measured_by_itself() -> None:
    """Because its network is far, say. It refuses nobody before it has a backlog."""
    door = Door()
    for _ in range(10):
        assert door.let_in(MANY) == MANY
        door.passes(LATE)
        door.settled(*[LATE] * MANY)
    door.let_in(10 * MANY)
    door.passes(2 * TOO_SLOW)
    door.settled(*[2 * TOO_SLOW] * MANY)
    assert door.let_in(10 * MANY) == MANY // 2


def test_a_clock_that_is_set_back_opens_no_door_and_breaks_nothing(slow: Door) -> None:
    slow.settled(-LATE)
    assert slow.let_in(10 * MANY) <= MANY


def test_one_late_order_among_others_is_no_overload(door: Door) -> None:
    door.let_in(MANY)
    door.passes(LATE)
    door.settled(LATE, SOON, SOON)
    assert door.let_in(MANY) == MANY


def test_little_room_is_saved_up(slow: Door) -> None:
    for _ in range(3):
        slow.settled(*[LATE] * 20)
    assert slow.let_in(MANY) == 30
    for _ in range(100):
        slow.settled(*[LATE] * 20)
    assert slow.let_in(MANY) == ALWAYS


def test_who_was_refused_does_not_rush_in_when_the_flow_is_quick_again(slow: Door) -> None:
    slow.passes(SOON)
    slow.settled(*[SOON] * 64)
    assert slow.let_in(MANY) == 64 * (SLOW // SOON)


def test_everybody_comes_in_once_nobody_has_been_refused_for_a_while(slow: Door) -> None:
    slow.passes(timedelta(seconds=CALM_SECONDS))
    slow.settled(SOON)
    assert slow.let_in(MANY) == MANY


def test_a_flow_that_is_interrupted_refuses_nobody(slow: Door) -> None:
    slow.passes(timedelta(seconds=STANDSTILL_SECONDS))
    assert slow.let_in(MANY) == MANY


def test_orders_whose_outcome_another_replica_hears_are_not_counted_for_ever(door: Door) -> None:
    door.let_in(MANY)
    door.passes(LATE)
    door.settled(SOON)
    door.passes(LATE)
    door.settled(LATE)
    assert door.let_in(MANY) == ALWAYS


def test_who_is_refused_is_told_when_to_come_again(slow: Door) -> None:
    before = REFUSED._value.get()
    refusal = slow.admission.refusal()
    assert REFUSED._value.get() == before + 1
    assert refusal is not None
    assert refusal.headers == {"Retry-After": "1"}
