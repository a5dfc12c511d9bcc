"""Letters and recipients, and the rules on them. Amounts are minor units."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Self
from uuid import UUID

from sqlmodel import BigInteger, Field, String

from apps.notifications import letters
from chassis.database.tables import Table
from events.base import Causation
from events.billing import AccountState
from events.notifications import (
    NotificationFailed,
    NotificationKind,
    NotificationSent,
    NotificationState,
    NotificationStatus,
)
from events.orders import OrderState
from events.users import Locale, UserState

FIRST_DELAY: Final = timedelta(seconds=2)
LONGEST_DELAY: Final = timedelta(minutes=5)

ATTEMPTS: Final = 1_150
"""How often a mail server may put one letter off: with these delays about three days, then it has failed."""

ANSWER_LIMIT: Final = 500
"""Characters that are kept of what a mail server said."""


def delay(attempts: int, jitter: float) -> timedelta:
    """How long a letter rests after its n-th attempt: twice as long each time, half of it by chance.

    `jitter` from 0 to 1 spreads letters that were put off together.
    """
    full = min(FIRST_DELAY * 2.0 ** min(attempts - 1, 16), LONGEST_DELAY)
    return full * (0.5 + jitter / 2)


class Recipient(Table, table=True):
    """A user who may get letters."""

    __tablename__ = "recipients"

    id: UUID = Field(primary_key=True)
    email: str
    name: str
    locale: Locale = Field(sa_type=String)
    version: int

    @classmethod
    def copies(cls, users: Iterable[UserState]) -> list[Self]:
        """Rows for `Transaction.upsert_newer`."""
        return [
            cls(id=u.id, email=u.email, name=u.name, locale=u.locale, version=u.version)
            for u in users
        ]


class Letter(Table, table=True):
    """A letter's way: waiting (for its recipient to be known) -> pending -> sent | failed.

    There is one per order and kind. It is worded and addressed once, when its recipient is known; what the API
    lists from then on is what is sent. `due_at` is when the mailer may take it: it lies ahead while the letter rests
    or is in a mailer's hands, and is None where there is nothing to do.
    """

    __tablename__ = "notifications"

    id: UUID = Field(primary_key=True)
    user_id: UUID
    order_id: UUID | None = None
    kind: NotificationKind = Field(sa_type=String)
    reason: str | None = None
    """Billing's, in a letter of sorrow."""
    amount: int | None = Field(default=None, sa_type=BigInteger)
    balance: int | None = Field(default=None, sa_type=BigInteger)
    currency: str | None = None
    address: str | None = None
    locale: Locale | None = Field(default=None, sa_type=String)
    subject: str | None = None
    body: str | None = None
    status: NotificationStatus = Field(default="waiting", sa_type=String)
    attempts: int = 0
    """How often a mail server has put off this very letter."""
    due_at: datetime | None = None
    answer: str | None = None
    """What the mail server said last."""
    created_at: datetime
    sent_at: datetime | None = None
    correlation_id: str
    causation_id: UUID | None = None
    traceparent: str | None = None

    @classmethod
    def about(
        cls,
        kind: NotificationKind,
        order: OrderState,
        amount: int,
        account: AccountState,
        *,
        id: UUID,
        cause: Causation,
        now: datetime,
        reason: str | None = None,
    ) -> Self:
        """A letter about what became of an order; it waits for its recipient."""
        return cls(
            id=id,
            user_id=order.user_id,
            order_id=order.id,
            kind=kind,
            reason=reason,
            amount=amount,
            balance=account.balance,
            currency=account.currency,
            created_at=now,
            correlation_id=cause.correlation_id,
            causation_id=cause.causation_id,
            traceparent=cause.traceparent,
        )

    @classmethod
    def message(
        cls, user_id: UUID, subject: str, body: str, *, id: UUID, cause: Causation, now: datetime
    ) -> Self:
        """An operator's own words; they wait for their recipient."""
        return cls(
            id=id,
            user_id=user_id,
            kind="message",
            subject=subject,
            body=body,
            created_at=now,
            correlation_id=cause.correlation_id,
            causation_id=cause.causation_id,
            traceparent=cause.traceparent,
        )

    def write_to(self, recipient: Recipient, now: datetime) -> None:
        """Word and address the letter: it can be sent."""
        self.address, self.locale = recipient.email, recipient.locale
        if self.order_id is not None:
            assert self.amount is not None
            assert self.balance is not None
            assert self.currency is not None
            text = letters.text(
                self.kind,
                recipient.locale,
                name=recipient.name,
                order_id=self.order_id,
                amount=self.amount,
                balance=self.balance,
                currency=self.currency,
                reason=self.reason,
            )
            self.subject, self.body = text.subject, text.body
        self.status, self.due_at = "pending", now

    def answered(self, code: int, text: str, at: datetime, jitter: float) -> None:
        """A mail server said yes (2xx), never (5xx), or not now: anything else; 0 where the connection was lost."""
        assert self.status == "pending"
        said = text.encode(errors="replace").decode()
        self.answer = letters.one_line(f"{code} {said}" if code else said)[:ANSWER_LIMIT]
        if 200 <= code < 300:
            self.status, self.sent_at, self.due_at = "sent", at, None
            return
        self.attempts += 1
        if 500 <= code < 600 or self.attempts >= ATTEMPTS:
            self.status, self.due_at = "failed", None
        else:
            self.due_at = at + delay(self.attempts, jitter)

    def causation(self) -> Causation:
        """The cause of the letter, and so of what becomes of it."""
        return Causation(self.correlation_id, self.causation_id, self.traceparent)

    def outcome(self) -> NotificationSent | NotificationFailed | None:
        """The event that tells of the letter's end, if it has come."""
        if self.status == "sent":
            return NotificationSent(notification=self.state())
        if self.status == "failed":
            return NotificationFailed(notification=self.state(), reason=self.answer or "")
        return None

    def state(self) -> NotificationState:
        """The letter as events and the API tell of it: nobody has written anything before it is addressed."""
        waits = self.status == "waiting"
        return NotificationState(
            id=self.id,
            user_id=self.user_id,
            order_id=self.order_id,
            kind=self.kind,
            to=self.address,
            subject=None if waits else self.subject,
            body=None if waits else self.body,
            status=self.status,
            created_at=self.created_at,
            sent_at=self.sent_at,
        )
