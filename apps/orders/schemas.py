"""Orders' HTTP bodies."""

from uuid import UUID

from pydantic import Field

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

    order_id: UUID = Field(validation_alias="id")
    user_id: UUID
    status: OrderStatus
    total_price: Money = Field(validation_alias="total")
    currency: str = Field(examples=[CURRENCY])
    reason: str | None = Field(None, description="Why the order was rejected.", examples=[None])
    placed_at: Moment
    settled_at: Moment | None = None
    refunded_at: Moment | None = None
    version: int = Field(examples=[1])
