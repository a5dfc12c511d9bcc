"""Things that tests talk about. Whatever a test does not name is filled in with something sensible and unique."""

from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from chassis.messaging import outbox
from chassis.messaging.outbox import Row
from events.base import Causation, Event
from events.billing import (
    AccountState,
    PaymentRefunded,
    PaymentRejected,
    PaymentState,
    PaymentSucceeded,
    RefundState,
    RejectionReason,
)
from events.money import CURRENCY, to_minor
from events.orders import OrderState, OrderStatus
from events.users import Locale, UserState


def now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


def a_user(
    *,
    id: UUID | None = None,
    name: str = "Ada Lovelace",
    email: str | None = None,
    locale: Locale = "en",
    version: int = 1,
) -> UserState:
    id = id or uuid7()
    return UserState(
        id=id, email=email or f"{id}@example.org", name=name, locale=locale, version=version
    )


def an_order(
    *,
    total: str = "30.00",
    user: UserState | UUID | None = None,
    id: UUID | None = None,
    status: OrderStatus = "pending",
    reason: str | None = None,
    version: int = 1,
) -> OrderState:
    return OrderState(
        id=id or uuid7(),
        user_id=user.id if isinstance(user, UserState) else user or uuid7(),
        total=to_minor(total),
        currency=CURRENCY,
        status=status,
        reason=reason,
        placed_at=now(),
        version=version,
    )


def cancelled(order: OrderState) -> OrderState:
    """The order after its cancellation."""
    return order.model_copy(update={"status": "cancelled", "version": order.version + 1})


def an_account(
    *, user: UserState | UUID | None = None, balance: str = "70.00", version: int = 2
) -> AccountState:
    return AccountState(
        id=uuid7(),
        user_id=user.id if isinstance(user, UserState) else user or uuid7(),
        balance=to_minor(balance),
        currency=CURRENCY,
        version=version,
    )


def a_payment(order: OrderState) -> PaymentState:
    return PaymentState(id=uuid7(), order_id=order.id, amount=order.total, created_at=now())


def payment_succeeded(order: OrderState, *, balance: str = "70.00") -> PaymentSucceeded:
    """The event that billing publishes once an order is debited."""
    account = an_account(user=order.user_id, balance=balance)
    return PaymentSucceeded(payment=a_payment(order), order=order, account=account)


def payment_rejected(
    order: OrderState, *, reason: RejectionReason = "insufficient_funds", balance: str = "0.00"
) -> PaymentRejected:
    """The event that billing publishes once an order is refused."""
    account = an_account(user=order.user_id, balance=balance)
    return PaymentRejected(reason=reason, order=order, account=account)


def payment_refunded(order: OrderState, *, balance: str = "100.00") -> PaymentRefunded:
    """The event that billing publishes once an order is refunded."""
    payment = a_payment(order)
    refund = RefundState(
        id=uuid7(),
        payment_id=payment.id,
        order_id=order.id,
        amount=order.total,
        created_at=now(),
    )
    account = an_account(user=order.user_id, balance=balance)
    return PaymentRefunded(refund=refund, payment=payment, order=order, account=account)


def outbox_row(
    event: Event,
    *,
    id: UUID | None = None,
    correlation_id: str | None = None,
    causation_id: UUID | None = None,
    traceparent: str | None = None,
) -> Row:
    """Return an event as a row of its publisher's outbox. A row that is published twice is a duplicate."""
    id = id or uuid7()
    cause = Causation(correlation_id or f"flow-{id}", causation_id, traceparent)
    return outbox.row(id, event, cause, now())


def with_body(row: Row, body: str) -> Row:
    """The same event with another body, as another release may have written it."""
    return row._replace(cloudevents=f"{row.cloudevents.removesuffix(row.data + '}')}{body}}}")
