"""The bodies of the requests between services."""

from typing import Literal
from uuid import UUID

from events.base import State
from events.billing import AccountState, RejectionReason
from events.money import Money
from events.orders import OrderState


class Decision(State):
    """The decision of billing about an order, and the account after it."""

    order_id: UUID
    amount: Money
    status: Literal["paid", "rejected"]
    reason: RejectionReason | None = None
    account: AccountState


class NotificationRequest(State):
    """A request for the notification about a decision."""

    order: OrderState
    decision: Decision
