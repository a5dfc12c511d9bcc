"""What services that call each other say in their calls."""

from typing import Literal
from uuid import UUID

from events.base import State
from events.billing import AccountState, RejectionReason
from events.money import Money
from events.orders import OrderState


class Decision(State):
    """What billing has decided about an order, and the account as it stood after that."""

    order_id: UUID
    amount: Money
    status: Literal["paid", "rejected"]
    reason: RejectionReason | None = None
    account: AccountState


class NotificationRequest(State):
    """A request for the letter about what was decided."""

    order: OrderState
    decision: Decision
