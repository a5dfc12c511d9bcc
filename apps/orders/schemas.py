"""Orders' HTTP bodies."""

from typing import Self
from uuid import UUID

from pydantic import Field

from apps.orders.models import Order
from chassis.web.pagination import PageQuery
from chassis.web.schemas import Body, View
from events.base import Moment
from events.money import CURRENCY, Amount, Money
from events.orders import OrderStatus


class OrderBody(Body):
    """The order to place: its total price."""

    total_price: Amount


class OrderQuery(PageQuery):
    """The query of a list of orders."""

    status: OrderStatus | None = Field(None, description="Only orders with this status.")


class OrderView(View):
    """The current state of an order."""

    order_id: UUID
    user_id: UUID
    status: OrderStatus
    total_price: Money
    currency: str = Field(examples=[CURRENCY])
    reason: str | None = Field(None, description="Why the order was rejected.", examples=[None])
    placed_at: Moment
    settled_at: Moment | None = None
    refunded_at: Moment | None = None
    version: int = Field(examples=[1])

    @classmethod
    def of(cls, order: Order) -> Self:
        """The view of an order."""
        return cls(
            order_id=order.id,
            user_id=order.user_id,
            status=order.status,
            total_price=order.total,
            currency=order.currency,
            reason=order.reason,
            placed_at=order.placed_at,
            settled_at=order.settled_at,
            refunded_at=order.refunded_at,
            version=order.version,
        )
