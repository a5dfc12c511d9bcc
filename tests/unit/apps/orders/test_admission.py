"""Admission control: under overload as many orders are admitted as settle in time, otherwise all."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from apps.orders.admission import (
    ALWAYS_ADMITTED,
    INTERRUPTED_SECONDS,
    RECOVERY_SECONDS,
    REFUSED,
    TARGET,
    TARGET_LIMIT,
    Admission,
)
from chassis.database.transaction import Transaction
from events.orders import OrderPlaced
from tests.support.builders import an_order

MANY = 8 * ALWAYS_ADMITTED

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

LATE = 2 * TARGET

SOON = TARGET / 10


class Load:
    """Admission control with a clock of its own, and outcomes on demand."""

    def __init__(self) -> None:
        self.time = 0.0
        self.admission = Admission(lambda: self.time)

    def advance(self, time: timedelta) -> None:
        self.time += time.total_seconds()

    def settled(self, *took: timedelta) -> None:
        now = BEGIN + timedelta(seconds=self.time)
        self.admission.settled([now - time for time in took], now)

    def admit(self, orders: int) -> int:
        return sum(self.admission.refusal() is None for _ in range(orders))


@pytest.fixture
def load() -> Load:
    """One order has settled in time."""
    load = Load()
    load.settled(SOON)
    return load


@pytest.fixture
def slow_load(load: Load) -> Load:
    """Orders settle slowly, more are in flight than settle in time, and no more are admitted."""
    load.admit(1)
    load.advance(SOON)
    assert load.admit(MANY) == MANY
    load.advance(LATE - SOON)
    load.settled(LATE)
    assert load.admit(MANY) == 1
    return load


class TestAdmission:
    def test_all_orders_are_admitted_while_orders_settle_in_time(self, load: Load) -> None:
        load.admit(MANY)
        load.advance(SOON)
        load.settled(SOON)
        assert load.admit(MANY) == MANY

    def test_all_orders_are_admitted_before_the_first_outcome(self) -> None:
        assert Load().admit(MANY) == MANY

    def test_a_transaction_without_outcomes_changes_nothing(self, load: Load) -> None:
        placed = SimpleNamespace(events=[OrderPlaced(order=an_order())], now=BEGIN)
        load.admission.committed(cast(Transaction, placed))
        assert load.admit(MANY) == MANY

    @pytest.mark.parametrize(("outcomes", "admitted"), [(1, 1), (2, 1), (64, 32)])
    def test_an_excess_shrinks_gradually(
        self, slow_load: Load, outcomes: int, admitted: int
    ) -> None:
        slow_load.settled(*[LATE] * outcomes)
        assert slow_load.admit(MANY) == admitted

    def test_as_many_orders_are_in_flight_as_settle_in_time(self, load: Load) -> None:
        load.admit(MANY)
        load.advance(LATE)
        load.settled(*[LATE] * MANY)  # all of them, in twice the target time
        load.admit(MANY)
        load.advance(LATE)
        load.settled(*[LATE] * (MANY // 2))  # those admitted since, which was half of them
        assert load.admit(MANY) == MANY // 4

    def test_orders_admitted_between_outcomes_count_as_in_flight(self, load: Load) -> None:
        load.admit(MANY)
        load.advance(LATE)
        load.settled(*[LATE] * MANY)
        assert load.admit(MANY) == MANY // 2
        load.advance(SOON)
        load.settled(*[LATE] * 100)
        assert load.admit(MANY) == 50

    def test_a_few_orders_may_always_be_in_flight(self, load: Load) -> None:
        """A slow network refuses no orders as long as they are few."""
        for _ in range(10):
            assert load.admit(ALWAYS_ADMITTED) == ALWAYS_ADMITTED
            load.advance(LATE)
            load.settled(*[LATE] * ALWAYS_ADMITTED)
        assert load.admit(MANY) == ALWAYS_ADMITTED

    def test_the_target_adapts_to_a_system_that_was_never_fast(self) -> None:
        """On a slow network, for example, no order is refused before there is a backlog."""
        load = Load()
        for _ in range(10):
            assert load.admit(MANY) == MANY
            load.advance(LATE)
            load.settled(*[LATE] * MANY)
        load.admit(10 * MANY)
        load.advance(2 * TARGET_LIMIT)
        load.settled(*[2 * TARGET_LIMIT] * MANY)
        assert load.admit(10 * MANY) == MANY // 2

    def test_a_clock_that_is_set_back_does_not_lift_the_limit(self, slow_load: Load) -> None:
        slow_load.settled(-LATE)
        assert slow_load.admit(10 * MANY) <= MANY

    def test_one_late_order_in_a_batch_is_not_an_overload(self, load: Load) -> None:
        load.admit(MANY)
        load.advance(LATE)
        load.settled(LATE, SOON, SOON)
        assert load.admit(MANY) == MANY

    def test_unused_room_accumulates_up_to_a_limit(self, slow_load: Load) -> None:
        for _ in range(3):
            slow_load.settled(*[LATE] * 20)
        assert slow_load.admit(MANY) == 30
        for _ in range(100):
            slow_load.settled(*[LATE] * 20)
        assert slow_load.admit(MANY) == ALWAYS_ADMITTED

    def test_the_limit_stays_for_a_while_after_the_overload(self, slow_load: Load) -> None:
        slow_load.advance(SOON)
        slow_load.settled(*[SOON] * 64)
        assert slow_load.admit(MANY) == 64 * (TARGET // SOON)

    def test_the_limit_ends_some_time_after_the_last_refusal(self, slow_load: Load) -> None:
        slow_load.advance(timedelta(seconds=RECOVERY_SECONDS))
        slow_load.settled(SOON)
        assert slow_load.admit(MANY) == MANY

    def test_an_interruption_refuses_no_orders(self, slow_load: Load) -> None:
        slow_load.advance(timedelta(seconds=INTERRUPTED_SECONDS))
        assert slow_load.admit(MANY) == MANY

    def test_orders_whose_outcome_another_replica_consumes_are_dropped(self, load: Load) -> None:
        load.admit(MANY)
        load.advance(LATE)
        load.settled(SOON)
        load.advance(LATE)
        load.settled(LATE)
        assert load.admit(MANY) == ALWAYS_ADMITTED

    def test_a_refusal_has_retry_after(self, slow_load: Load) -> None:
        before = REFUSED._value.get()
        refusal = slow_load.admission.refusal()
        assert REFUSED._value.get() == before + 1
        assert refusal is not None
        assert refusal.headers == {"Retry-After": "1"}
