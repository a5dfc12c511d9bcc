"""The transitions of an order: pending -> paid | rejected | cancelled, paid -> cancelled, and corrections."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apps.orders import use_cases
from apps.orders.models import Customer, Order, OrderAlreadyRejected, Outcome
from apps.orders.use_cases import CancelOrder, PlaceOrder
from chassis.messaging.contradictions import ContradictionError
from chassis.web.problems import NotFound
from events.base import Causation, Envelope, Event
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import UserRegistered, UserUpdated
from tests.support.builders import (
    a_user,
    now,
    payment_refunded,
    payment_rejected,
    payment_succeeded,
)
from tests.support.memory import Memory

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
CAUSE = Causation("flow")
USER, OTHER = UUID(int=1), UUID(int=2)

Step = Callable[[Order, datetime], bool | OrderAlreadyRejected]


def decide(order: Order, outcome: Outcome) -> bool:
    return order.settle(outcome, outcome.at) or order.correct(outcome, outcome.at)


def pay(order: Order, at: datetime) -> bool:
    return decide(order, Outcome("paid", at))


def reject(order: Order, at: datetime) -> bool:
    return decide(order, Outcome("rejected", at, "insufficient_funds"))


def cancel(order: Order, at: datetime) -> bool | OrderAlreadyRejected:
    return order.cancel(at)


BEFORE: dict[str, list[Step]] = {
    "pending": [],
    "paid": [pay],
    "rejected": [reject],
    "cancelled": [cancel],
    "cancelled after payment": [pay, cancel],
}


def an_order_that_is(status: str) -> Order:
    order = Order.place(UUID(int=5), USER, 3_000, NOW)
    for step in BEFORE[status]:
        step(order, NOW)
    return order


def test_a_new_order_is_pending() -> None:
    order = an_order_that_is("pending")
    assert (order.status, order.version, order.pending) == ("pending", 1, True)
    assert (order.placed_at, order.settled_at, order.reason) == (NOW, None, None)


@pytest.mark.parametrize(
    ("status", "step", "then"),
    [
        ("pending", pay, "paid"),
        ("pending", reject, "rejected"),
        ("pending", cancel, "cancelled"),
        ("paid", cancel, "cancelled"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_transition_changes_the_status_and_raises_the_version(
    status: str, step: Step, then: str
) -> None:
    order = an_order_that_is(status)
    version = order.version

    assert step(order, LATER) is True
    assert (order.status, order.version, order.pending) == (then, version + 1, False)
    assert order.settled_at == (NOW if status == "paid" else LATER)
    assert order.reason == ("insufficient_funds" if then == "rejected" else None)


@pytest.mark.parametrize(
    ("status", "step"),
    [
        ("paid", pay),
        ("rejected", reject),
        ("cancelled", pay),
        ("cancelled", reject),
        ("cancelled", cancel),
        ("cancelled after payment", pay),
        ("cancelled after payment", reject),
        ("cancelled after payment", cancel),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_settled_order_ignores_further_transitions(status: str, step: Step) -> None:
    order = an_order_that_is(status)
    before = order.state()
    assert step(order, LATER) is False
    assert order.state() == before


@pytest.mark.parametrize(
    ("status", "step", "then"), [("paid", reject, "rejected"), ("rejected", pay, "paid")]
)
def test_a_later_decision_that_differs_corrects_an_order_and_an_earlier_one_does_not(
    status: str, step: Step, then: str
) -> None:
    order = an_order_that_is(status)
    assert step(order, NOW - timedelta(hours=1)) is False
    assert (order.status, order.version, order.corrections) == (status, 2, 0)
    assert step(order, LATER) is True
    assert (order.status, order.version, order.corrections) == (then, 3, 1)
    assert (order.settled_at, order.decided_at) == (LATER, LATER)
    assert order.reason == ("insufficient_funds" if then == "rejected" else None)
    assert order.history()[-1].order == order.state()


@given(times=st.permutations(range(6)), first=st.booleans())
def test_an_order_has_billings_latest_decision_in_whatever_order_they_arrive(
    times: list[int], first: bool
) -> None:
    order = an_order_that_is("pending")
    for time in times:
        step = pay if (time % 2 == 0) == first else reject
        step(order, NOW + timedelta(hours=time))
    assert order.status == ("rejected" if first else "paid")
    assert order.version == 2 + order.corrections


def test_a_refund_of_a_payment_that_billing_has_no_more_is_not_recorded() -> None:
    order = an_order_that_is("cancelled after payment")
    assert order.refund(LATER, NOW)
    reject(order, LATER)
    assert (order.status, order.refunded_at) == ("cancelled", None)
    assert not order.refund(LATER, NOW)
    assert order.refunded_at is None


@pytest.mark.parametrize("change", [{"user_id": OTHER}, {"total": 2}, {}])
def test_an_event_about_another_user_total_or_cancellation_contradicts_an_order(
    change: dict[str, Any],
) -> None:
    order = an_order_that_is("paid")
    with pytest.raises(ContradictionError):
        order.require(order.state().model_copy(update=change), cancelled=not change)


def test_a_rejected_order_cannot_be_cancelled() -> None:
    order = an_order_that_is("rejected")
    before = order.state()
    refusal = order.cancel(LATER)
    assert isinstance(refusal, OrderAlreadyRejected)
    assert (refusal.status, refusal.reason) == (409, "order_rejected")
    assert order.state() == before


class Orders(RuleBasedStateMachine):
    """The use cases of orders, with outcomes and cancellations in any order and number."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.ids: list[UUID] = []
        self.versions: dict[UUID, int] = {}

    @rule(totals=st.lists(st.integers(1, 10**14), min_size=1, max_size=3))
    def place(self, totals: list[int]) -> None:
        commands = [PlaceOrder(USER, total, CAUSE) for total in totals]
        placed = self.memory.run(use_cases.place_orders, commands)
        assert [order.total for order in placed] == totals
        self.ids += [order.id for order in placed]

    def some(self, data: st.DataObject) -> list[Order]:
        orders = self.memory.rows(Order)
        if not orders:
            return []
        return data.draw(st.lists(st.sampled_from(orders), min_size=1, max_size=4))

    @rule(data=st.data())
    def payments_succeed(self, data: st.DataObject) -> None:
        received = [_received(payment_succeeded(order.state())) for order in self.some(data)]
        self.memory.run(use_cases.mark_paid, received)

    @rule(data=st.data())
    def payments_are_rejected(self, data: st.DataObject) -> None:
        received = [_received(payment_rejected(order.state())) for order in self.some(data)]
        self.memory.run(use_cases.mark_rejected, received)

    @rule(data=st.data())
    def payments_are_refunded(self, data: st.DataObject) -> None:
        received = [_received(payment_refunded(order.state())) for order in self.some(data)]
        status = {order.id: order.status for order in self.memory.rows(Order)}
        if any(status[one.event.order.id] != "cancelled" for one in received):
            with pytest.raises(ContradictionError):
                self.memory.run(use_cases.mark_refunded, received)
            return
        self.memory.run(use_cases.mark_refunded, received)
        refunded = {order.id: order.refunded_at for order in self.memory.rows(Order)}
        assert all(refunded[one.event.order.id] for one in received)

    @rule(data=st.data(), owner=st.sampled_from([USER, OTHER, None]))
    def customers_cancel(self, data: st.DataObject, owner: UUID | None) -> None:
        before = {order.id: order.status for order in self.memory.rows(Order)}
        commands = [CancelOrder(order.id, owner, CAUSE) for order in self.some(data)]
        commands.append(CancelOrder(UUID(int=404), owner, CAUSE))
        results = self.memory.run(use_cases.cancel_orders, commands)
        for command, result in zip(commands, results, strict=True):
            if owner == OTHER or command.order_id not in before:
                assert isinstance(result, NotFound)
            elif before[command.order_id] == "rejected":
                assert isinstance(result, OrderAlreadyRejected)
            else:
                assert isinstance(result, Order)
                assert result.status == "cancelled"

    @invariant()
    def every_change_is_a_version_and_an_event(self) -> None:
        published: dict[UUID, list[Any]] = {id: [] for id in self.ids}
        for event, _ in self.memory.published:
            published[event.order.id].append(event)  # type: ignore[attr-defined]
        for order in self.memory.rows(Order):
            states = [event.order for event in published[order.id]]
            assert [state.version for state in states] == list(range(1, order.version + 1))
            assert states[-1] == order.state()
            assert _HISTORY.fullmatch("".join(map(_initial, published[order.id])))

    @invariant()
    def settled_orders_have_a_time(self) -> None:
        for order in self.memory.rows(Order):
            assert (order.settled_at is None) == order.pending
            assert (order.reason is not None) == (order.status == "rejected")


_HISTORY = re.compile("L(P?(RP)*C?|R?(PR)*)")
"""All histories of an order that is pLaced, Paid, Rejected and Cancelled: outcomes that correct each other, and a
cancellation unless the last of them is a rejection."""


def _initial(event: Event) -> str:
    return {OrderPlaced: "L", OrderPaid: "P", OrderRejected: "R", OrderCancelled: "C"}[type(event)]


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=50, stateful_step_count=20)


def test_the_newest_version_of_a_customer_is_stored_in_any_order_of_events() -> None:
    memory = Memory()
    memory.run(use_cases.store_customers, [_received(UserUpdated(user=a_user(id=USER, version=2)))])
    memory.run(use_cases.store_customers, [_received(UserRegistered(user=a_user(id=USER)))])

    assert memory.rows(Customer) == [Customer(id=USER, version=2)]


def _received(event: Any) -> Envelope[Any]:
    return Envelope(UUID(int=9), event, now(), CAUSE)
