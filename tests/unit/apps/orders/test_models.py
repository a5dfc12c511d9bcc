"""The transitions of an order: pending -> paid | rejected | cancelled, and paid -> cancelled, and no others."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from apps.orders import use_cases
from apps.orders.models import Customer, Order, OrderAlreadyRejected
from apps.orders.use_cases import CancelOrder, PlaceOrder
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


def pay(order: Order, at: datetime) -> bool:
    return order.pay(at)


def reject(order: Order, at: datetime) -> bool:
    return order.reject("insufficient_funds", at)


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
        ("paid", reject),
        ("rejected", pay),
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
            assert [type(event) for event in published[order.id]] in _HISTORIES

    @invariant()
    def settled_orders_have_a_time(self) -> None:
        for order in self.memory.rows(Order):
            assert (order.settled_at is None) == order.pending
            assert (order.reason is not None) == (order.status == "rejected")


_HISTORIES: list[list[type[Event]]] = [
    [OrderPlaced],
    [OrderPlaced, OrderPaid],
    [OrderPlaced, OrderRejected],
    [OrderPlaced, OrderCancelled],
    [OrderPlaced, OrderPaid, OrderCancelled],
]
"""All possible histories of an order: at most one outcome, and no cancellation after a rejection."""

TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=50, stateful_step_count=20)


def test_the_newest_version_of_a_customer_is_stored_in_any_order_of_events() -> None:
    memory = Memory()
    memory.run(use_cases.store_customers, [_received(UserUpdated(user=a_user(id=USER, version=2)))])
    memory.run(use_cases.store_customers, [_received(UserRegistered(user=a_user(id=USER)))])

    assert memory.rows(Customer) == [Customer(id=USER, version=2)]


def _received(event: Any) -> Envelope[Any]:
    return Envelope(UUID(int=9), event, now(), CAUSE)
