"""Notifications and their recipients, and the rules on them. Amounts are minor units."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, Self
from uuid import UUID

from sqlmodel import BigInteger, Field, String

from apps.notifications import rendering
from chassis.database.tables import Table
from events.base import Causation, Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.notifications import (
    NotificationFailed,
    NotificationKind,
    NotificationSent,
    NotificationState,
    NotificationStatus,
)
from events.users import Locale, UserState

FIRST_DELAY: Final = timedelta(seconds=2)
LONGEST_DELAY: Final = timedelta(minutes=5)

ATTEMPTS: Final = 1_150
"""Attempts after which a notification has failed: about three days with these delays."""

ANSWER_LIMIT: Final = 500
"""Characters that are kept of a server's answer."""


def delay(attempts: int, jitter: float) -> timedelta:
    """The delay after the n-th attempt: it doubles up to LONGEST_DELAY.

    `jitter` from 0 to 1 scales the second half of it, so that notifications deferred together are spread.
    """
    full = min(FIRST_DELAY * 2.0 ** min(attempts - 1, 16), LONGEST_DELAY)
    return full * (0.5 + jitter / 2)


Outcome = Literal["accepted", "deferred", "refused"]
"""Deferred: try again later. Refused: never try again."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What a channel's server answered to one notification."""

    outcome: Outcome
    answer: str
    """The server's code and text."""


Novelty = Literal["new", "known", "correction", "outdated"]
"""What a notification about an order adds to those that there are. Outdated: a later decision of billing is known."""

ADDRESSES: Final = {"email": "email"}
"""The channels, each with the column of recipients that holds its address. Everyone has an e-mail address."""


class Recipient(Table, table=True):
    """A user who may be notified: a copy of the users service's record. The newest version wins."""

    __tablename__ = "recipients"

    id: UUID = Field(primary_key=True)
    email: str
    name: str
    locale: Locale = Field(sa_type=String)
    version: int

    @classmethod
    def copies(cls, users: Iterable[UserState]) -> list[Self]:
        """Rows for `Transaction.upsert_newer`."""
        return [cls(**vars(user)) for user in users]

    def address(self, channel: str) -> str | None:
        """The recipient's address in a channel, if they have one. Raises KeyError for a channel that there is not."""
        address: str | None = getattr(self, ADDRESSES[channel])
        return address


class Notification(Table, table=True):
    """One message to one recipient by one channel: waiting (recipient unknown) -> pending -> sent | failed.

    About an order's outcome, joy or sorrow, there is one by each channel, and one about its refund. If billing decides
    anew after its database was restored, the other outcome has one, too, which corrects the one before.

    It is rendered and addressed once, when its recipient is known; what the API lists from then on is what is sent.
    While it is pending, a dispatcher may lease it from `due_at` on, which is in the future during a lease and after an
    attempt that was deferred. Otherwise `due_at` is None.
    """

    __tablename__ = "notifications"

    id: UUID = Field(primary_key=True)
    user_id: UUID
    order_id: UUID | None = None
    kind: NotificationKind = Field(sa_type=String)
    channel: str = "email"
    reason: str | None = None
    """Billing's reason, if the kind is sorrow."""
    amount: int | None = Field(default=None, sa_type=BigInteger)
    """The order's total."""
    balance: int | None = Field(default=None, sa_type=BigInteger)
    currency: str | None = None
    address: str | None = None
    locale: Locale | None = Field(default=None, sa_type=String)
    subject: str | None = None
    body: str | None = None
    status: NotificationStatus = Field(default="waiting", sa_type=String)
    attempts: int = 0
    """How many attempts were deferred or refused."""
    due_at: datetime | None = None
    answer: str | None = None
    """The server's last answer."""
    created_at: datetime
    sent_at: datetime | None = None
    correlation_id: str
    causation_id: UUID | None = None
    traceparent: str | None = None
    decided_at: datetime | None = None
    """When billing decided about the order, by its clock; None if that is not known."""
    correction: int = 0
    """How many other outcomes were written before: it corrects the last. A refund has the number of its joy."""

    @classmethod
    def joy(cls, received: Envelope[PaymentSucceeded], id: UUID, now: datetime) -> Self:
        """A notification that an order is paid."""
        return cls._about("joy", received, id, now, received.event.payment.created_at)

    @classmethod
    def sorrow(cls, received: Envelope[PaymentRejected], id: UUID, now: datetime) -> Self:
        """A notification that an order will not be paid."""
        return cls._about("sorrow", received, id, now, received.time, received.event.reason)

    @classmethod
    def refund(cls, received: Envelope[PaymentRefunded], id: UUID, now: datetime) -> Self:
        """A notification that the money for an order is back on its account."""
        return cls._about("refund", received, id, now, received.event.payment.created_at)

    @classmethod
    def _about(
        cls,
        kind: NotificationKind,
        received: Envelope[PaymentSucceeded | PaymentRejected | PaymentRefunded],
        id: UUID,
        now: datetime,
        decided_at: datetime,
        reason: str | None = None,
    ) -> Self:
        order, account = received.event.order, received.event.account
        return cls(
            id=id,
            user_id=order.user_id,
            order_id=order.id,
            kind=kind,
            reason=reason,
            amount=order.total,
            balance=account.balance,
            currency=account.currency,
            created_at=now,
            decided_at=decided_at,
            **received.causation()._asdict(),
        )

    def follow(self, known: Sequence[Self]) -> Novelty:
        """Take the place after the known notifications about the same order. Returns what this adds to them."""
        outcomes = [n for n in known if n.kind != "refund"]
        last = max(outcomes, key=lambda n: n.correction, default=None)
        differs = older = False
        if last is not None:
            differs = last.kind != ("joy" if self.kind == "refund" else self.kind)
            if self.decided_at is not None and last.decided_at is not None:
                older = self.decided_at < last.decided_at
            if older and (differs or self.kind == "refund"):
                return "outdated"
            self.correction = last.correction + differs
        same = [n for n in known if (n.kind, n.correction) == (self.kind, self.correction)]
        for notification in same if not older else ():
            notification.decided_at = self.decided_at
        if same:
            return "known"
        return "correction" if differs else "new"

    def render_for(self, recipient: Recipient, now: datetime) -> None:
        """Render and address the notification: it is due now. Raises KeyError if it has no template."""
        self.address, self.locale = recipient.address(self.channel), recipient.locale
        if self.kind != "message":
            kind = f"{self.kind}-{self.reason}" if self.reason else self.kind
            template = f"{self.channel}/{self.locale}/{kind}"
            self.subject, self.body = rendering.text(template, recipient.name, vars(self))
            if self.correction and self.kind != "refund":
                template = f"{self.channel}/{self.locale}/correction"
                self.subject, self.body = rendering.around(template, self.subject, self.body)
        self.status, self.due_at = "pending", now

    def copy_for(self, channel: str, id: UUID, recipient: Recipient) -> Self:
        """The same notification by another channel, rendered and addressed for it."""
        copy = type(self)(**vars(self) | {"id": id, "channel": channel})
        copy.render_for(recipient, self.created_at)
        return copy

    def record(
        self, result: DeliveryResult, at: datetime, jitter: float
    ) -> NotificationSent | NotificationFailed | None:
        """Apply the result of an attempt to deliver this notification; returns the event of a final one."""
        assert self.status == "pending"
        answer = rendering.one_line(result.answer.encode(errors="replace").decode())
        self.answer = answer[:ANSWER_LIMIT]
        if result.outcome == "accepted":
            self.status, self.sent_at, self.due_at = "sent", at, None
            return NotificationSent(notification=self.state())
        self.attempts += 1
        if result.outcome == "refused" or self.attempts >= ATTEMPTS:
            self.status, self.due_at = "failed", None
            return NotificationFailed(notification=self.state(), reason=self.answer)
        self.due_at = at + delay(self.attempts, jitter)
        return None

    def causation(self) -> Causation:
        """The cause of the notification, and so of its outcome."""
        return Causation(self.correlation_id, self.causation_id, self.traceparent)

    def state(self) -> NotificationState:
        """The notification as events and the API show it: without subject and body until it is addressed."""
        shown = vars(self) | {"to": self.address}
        if self.status == "waiting":
            shown |= {"subject": None, "body": None}
        return NotificationState(**shown)
