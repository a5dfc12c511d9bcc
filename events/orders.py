"""Events of orders: an order is placed, then paid, rejected or cancelled."""

from typing import Literal
from uuid import UUID

from events.base import ByOperator, Event, Moment, State, Version
from events.money import Money

OrderStatus = Literal["pending", "paid", "rejected", "cancelled"]


class OrderState(State):
    """The whole order. `reason` is None unless it was rejected."""

    id: UUID
    user_id: UUID
    total: Money
    currency: str
    status: OrderStatus
    reason: str | None = None
    placed_at: Moment
    version: Version


class OrderPlaced(Event, exchange="orders", key="order-placed.v1", subject="order.id"):
    """A customer's order exists, and its total will not change."""

    order: OrderState


class OrderPaid(
    Event, exchange="orders", key="order-paid.v1", subject="order.id", subscribed=False
):
    """The order's total has been debited from the customer's account."""

    order: OrderState


class OrderRejected(
    Event, exchange="orders", key="order-rejected.v1", subject="order.id", subscribed=False
):
    """The order will never be paid; nothing has been debited for it."""

    order: OrderState


class OrderCancelled(Event, exchange="orders", key="order-cancelled.v1", subject="order.id"):
    """The customer or an operator has cancelled the order; a payment is refunded, now or when it arrives."""

    order: OrderState
    by_operator: ByOperator | None = None
