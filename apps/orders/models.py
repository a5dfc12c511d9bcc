"""Orders, with their rules and refusals. Amounts are minor units."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Self
from uuid import UUID

from sqlmodel import BigInteger, Field, String

from chassis.database.tables import Table
from chassis.messaging.contradictions import ContradictionError
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """Billing's decision about an order."""

    status: Literal["paid", "rejected"]
    at: datetime
    """By billing's clock."""
    reason: str | None = None


class Order(Table, table=True):
    """An order: pending -> paid | rejected | cancelled, and paid -> cancelled. Each transition is a new version.

    Billing may decide anew after its database was restored: paid <-> rejected is such a correction. Its later decision
    is the one that its ledger has, so the order follows it.
    """

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
    decided_at: datetime | None = None
    """When billing took the decision that the order follows, by billing's clock; None if that is not known."""
    corrections: int = 0
    """How often a later decision has replaced it."""

    @classmethod
    def place(cls, id: UUID, user_id: UUID, total: int, now: datetime) -> Self:
        """A new order."""
        return cls(id=id, user_id=user_id, total=total, placed_at=now)

    @property
    def pending(self) -> bool:
        """Whether billing has not decided about it yet."""
        return self.status == "pending"

    @property
    def was_paid(self) -> bool:
        """Whether it is paid, or was until it was cancelled."""
        paid_before = self.version > 2 or self.refunded_at is not None
        return self.status == "paid" or (self.status == "cancelled" and paid_before)

    def require(self, state: OrderState, *, cancelled: bool = False) -> None:
        """Raise ContradictionError if an event is about an order of another user or total, or one not `cancelled`."""
        if (self.user_id, self.total) != (state.user_id, state.total):
            raise ContradictionError(f"order {self.id} is of user {self.user_id}, {self.total}")
        if cancelled and self.status != "cancelled":
            raise ContradictionError(f"order {self.id} is {self.status}, and was not cancelled")

    def contradicts(self, outcome: Outcome) -> bool:
        """Whether billing had decided otherwise, as far as the order tells."""
        return self.status == "rejected" if outcome.status == "paid" else self.was_paid

    def settle(self, outcome: Outcome, now: datetime) -> bool:
        """Record billing's decision about a pending order. Returns False, and changes nothing, if it is not pending."""
        if not self.pending:
            return False
        self.status, self.reason, self.settled_at = outcome.status, outcome.reason, now
        self.decided_at = outcome.at
        self.version += 1
        return True

    def correct(self, outcome: Outcome, now: datetime) -> bool:
        """Follow billing's later decision. Returns whether the status changed: a cancelled order stays cancelled."""
        if self.decided_at is not None and outcome.at < self.decided_at:
            return False
        self.decided_at = outcome.at
        if outcome.status == "rejected":
            self.refunded_at = None  # nothing was paid
        if self.status in (outcome.status, "cancelled"):
            return False
        self.corrections += 1
        self.status, self.reason, self.settled_at = outcome.status, outcome.reason, now
        self.version += 1
        return True

    def refund(self, at: datetime, paid_at: datetime) -> bool:
        """Record the refund of a payment, unless billing has decided anew since. Returns whether it did."""
        if self.decided_at is not None and paid_at < self.decided_at:
            return False
        self.refunded_at, self.decided_at = at, paid_at
        return True

    def cancel(self, now: datetime) -> bool | OrderAlreadyRejected:
        """Cancel. Returns whether anything changed."""
        if self.status == "rejected":
            return OrderAlreadyRejected()
        if self.status == "cancelled":
            return False
        self.status, self.settled_at = "cancelled", self.settled_at or now
        self.version += 1
        return True

    def state(self) -> OrderState:
        """The order for events."""
        return OrderState(**vars(self))

    def history(self) -> list[OrderPlaced | OrderPaid | OrderRejected | OrderCancelled]:
        """What has been published about the order, in order, each event with the state of its time.

        Outcomes that were corrected are left out.
        """
        state = self.state()
        history: list[OrderPlaced | OrderPaid | OrderRejected | OrderCancelled] = [
            OrderPlaced(order=state.model_copy(update=AS_PLACED))
        ]
        cancelled = self.status == "cancelled"
        if self.status == "paid" or (cancelled and self.version > 2):
            paid = {"status": "paid", "version": self.version - cancelled}
            history.append(OrderPaid(order=state.model_copy(update=paid)))
        if self.status == "rejected":
            history.append(OrderRejected(order=state))
        if cancelled:
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
