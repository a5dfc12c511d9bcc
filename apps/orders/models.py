"""Orders, with their rules and refusals. Amounts are minor units."""

from datetime import datetime
from typing import Final, Self
from uuid import UUID

from sqlmodel import BigInteger, Field, String

from chassis.database.tables import Table
from chassis.messaging.snapshot import Snapshot
from chassis.web.problems import Problem
from events.money import CURRENCY
from events.orders import (
    OrderCancelled,
    OrderPaid,
    OrderPlaced,
    OrderRejected,
    OrderState,
    OrderStatus,
)

AS_PLACED: Final = {"status": "pending", "reason": None, "version": 1}
"""What is not as it was placed in a later state of an order."""


class OrderAlreadyRejected(Problem, status=409, reason="order_rejected"):
    """A rejected order cannot be cancelled."""


class PaymentRefused(Problem, status=403, reason="insufficient_funds"):
    """The order was not paid."""

    @classmethod
    def example(cls) -> Self:
        """An instance for the documentation."""
        return cls(orderId="019aab0f-7c40-7000-8000-000000000001")


class Customer(Table, table=True):
    """A user who may place orders."""

    __tablename__ = "customers"

    id: UUID = Field(primary_key=True)
    version: int


class Order(Table, table=True):
    """An order: pending -> paid | rejected | cancelled, and paid -> cancelled. Each transition is a new version."""

    __tablename__ = "orders"

    id: UUID = Field(primary_key=True)
    user_id: UUID
    total: int = Field(sa_type=BigInteger)
    currency: str = CURRENCY
    status: OrderStatus = Field(default="pending", sa_type=String)
    reason: str | None = None
    placed_at: datetime
    settled_at: datetime | None = None
    refunded_at: datetime | None = None
    """When billing refunded the payment. It does not change the order's version."""
    version: int = 1

    @classmethod
    def place(cls, id: UUID, user_id: UUID, total: int, now: datetime) -> Self:
        """A new order."""
        return cls(id=id, user_id=user_id, total=total, placed_at=now)

    @property
    def pending(self) -> bool:
        """Whether billing has not decided about it yet."""
        return self.status == "pending"

    def pay(self, now: datetime) -> bool:
        """Mark as paid. Returns whether anything changed: a cancelled order stays cancelled."""
        return self._settle("paid", None, now)

    def reject(self, reason: str, now: datetime) -> bool:
        """Mark as rejected. Returns whether anything changed."""
        return self._settle("rejected", reason, now)

    def cancel(self, now: datetime) -> bool | OrderAlreadyRejected:
        """Cancel. Returns whether anything changed."""
        if self.status == "rejected":
            return OrderAlreadyRejected()
        if self.status == "cancelled":
            return False
        self.status, self.settled_at = "cancelled", self.settled_at or now
        self.version += 1
        return True

    def _settle(self, status: OrderStatus, reason: str | None, now: datetime) -> bool:
        if not self.pending:
            return False
        self.status, self.reason, self.settled_at = status, reason, now
        self.version += 1
        return True

    def state(self) -> OrderState:
        """The order for events."""
        return OrderState(**vars(self))

    def history(self) -> list[OrderPlaced | OrderPaid | OrderRejected | OrderCancelled]:
        """What has been published about the order, in order, each event with the state of its time."""
        state = self.state()
        history: list[OrderPlaced | OrderPaid | OrderRejected | OrderCancelled] = [
            OrderPlaced(order=state.model_copy(update=AS_PLACED))
        ]
        if self.status == "paid" or self.version == 3:  # paid, and perhaps cancelled later
            paid = {"status": "paid", "version": 2}
            history.append(OrderPaid(order=state.model_copy(update=paid)))
        if self.status == "rejected":
            history.append(OrderRejected(order=state))
        if self.status == "cancelled":
            history.append(OrderCancelled(order=state))
        return history


SNAPSHOTS: Final = (
    Snapshot(
        Order,
        Order.history,
        (OrderPlaced, OrderPaid, OrderRejected, OrderCancelled),
        changed_at="greatest(placed_at, settled_at, refunded_at)",
    ),
)
