"""What notifications does. Each function takes a transaction and a list, and returns results in the list's order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from apps.notifications.models import Letter, Recipient
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Transaction
from events.base import Causation, Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.notifications import NotificationKind
from events.users import UserRegistered, UserUpdated

LEASE_SECONDS: Final = 15.0
"""How long letters stay in the hands of the mailer that has taken them. While one is being sent, its mailer asks for
more time; if the mailer dies, others may take the letters after this time."""

MEET: Final = "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key"

RELEASE: Final = """
UPDATE notifications SET due_at = $2 WHERE user_id = ANY($1::uuid[]) AND status = 'waiting' AND due_at IS NULL
"""

TAKE: Final = f"""
UPDATE notifications SET due_at = now() + make_interval(secs => $2) WHERE id = ANY(ARRAY(
    SELECT id FROM notifications WHERE status IN ('waiting', 'pending') AND due_at <= now()
    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING {", ".join(statements(Letter).columns)}
"""  # noqa: S608 - made of our own names

HOLD: Final = """
UPDATE notifications SET due_at = now() + make_interval(secs => held.seconds)
FROM unnest($1::uuid[], $2::float8[]) AS held(id, seconds)
WHERE notifications.id = held.id AND notifications.id = ANY($1) AND status IN ('waiting', 'pending') AND due_at > now()
RETURNING notifications.id
"""


@dataclass(frozen=True, slots=True)
class SendMessage:
    """An operator's wish to write to a user."""

    user_id: UUID
    subject: str
    body: str
    cause: Causation


@dataclass(frozen=True, slots=True)
class Answer:
    """What a mail server said to a letter, as `Letter.answered` takes it."""

    letter_id: UUID
    code: int
    text: str
    at: datetime
    jitter: float


@dataclass(frozen=True, slots=True)
class Hold:
    """A mailer's wish to keep a letter for so long from now; 0 gives it back."""

    letter_id: UUID
    seconds: float


async def store_recipients(
    tx: Transaction, received: Sequence[Envelope[UserRegistered] | Envelope[UserUpdated]]
) -> None:
    """A user may get notifications; those that waited for them become due."""
    users = {e.event.user.id for e in received}
    await _meet(tx, users)
    await tx.upsert_newer(Recipient.copies(e.event.user for e in received))
    await tx.execute(RELEASE, list(users), tx.now)


async def write_joy(tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]) -> None:
    """Write letters of joy: these orders are paid."""
    await _write(tx, [_about(tx, "joy", e, e.event.payment.amount) for e in received])


async def write_sorrow(tx: Transaction, received: Sequence[Envelope[PaymentRejected]]) -> None:
    """Write letters of sorrow: these orders will not be paid."""
    await _write(
        tx, [_about(tx, "sorrow", e, e.event.order.total, e.event.reason) for e in received]
    )


async def write_refund(tx: Transaction, received: Sequence[Envelope[PaymentRefunded]]) -> None:
    """Write letters of refund: the money for these orders is back."""
    await _write(tx, [_about(tx, "refund", e, e.event.refund.amount) for e in received])


async def send_messages(tx: Transaction, commands: Sequence[SendMessage]) -> list[Letter]:
    """Accept operators' letters to users."""
    messages = [
        Letter.message(
            command.user_id,
            command.subject,
            command.body,
            id=tx.new_id(),
            cause=command.cause,
            now=tx.now,
        )
        for command in commands
    ]
    await _write(tx, messages)
    return messages


async def take_letters(tx: Transaction, limits: Sequence[int]) -> list[list[Letter]]:
    """Take letters that are due into a mailer's hands, the longest due first, up to each limit.

    Several mailers share the work: a letter is in one hand at a time. One that waited for its recipient is worded
    and addressed here.
    """
    return [await _take(tx, limit) for limit in limits]


async def hold_letters(tx: Transaction, holds: Sequence[Hold]) -> list[bool]:
    """Keep letters longer, or give them back. Says which were still in the asking mailer's hands."""
    records = await tx.fetch(
        HOLD, [hold.letter_id for hold in holds], [hold.seconds for hold in holds]
    )
    held = {record["id"] for record in records}
    return [hold.letter_id in held for hold in holds]


async def record_answers(tx: Transaction, answers: Sequence[Answer]) -> list[Letter]:
    """Record what mail servers said. The first final answer to a letter stands."""
    letters = await tx.lock(Letter, [answer.letter_id for answer in answers])
    for answer in answers:
        letter = letters[answer.letter_id]
        if letter.status != "pending":
            continue
        letter.answered(answer.code, answer.text, answer.at, answer.jitter)
        if event := letter.outcome():
            tx.publish(event, letter.causation())
    changed = list(letters.values())
    await tx.update(changed, "status", "attempts", "due_at", "answer", "sent_at")
    return [letters[answer.letter_id] for answer in answers]


def _about(
    tx: Transaction,
    kind: NotificationKind,
    received: Envelope[PaymentSucceeded] | Envelope[PaymentRejected] | Envelope[PaymentRefunded],
    amount: int,
    reason: str | None = None,
) -> Letter:
    event, cause = received.event, received.causation()
    return Letter.about(
        kind,
        event.order,
        amount,
        event.account,
        id=tx.new_id(),
        cause=cause,
        now=tx.now,
        reason=reason,
    )


async def _write(tx: Transaction, letters: Sequence[Letter]) -> None:
    """Write letters, each once per order and kind; one whose recipient is not known waits for him."""
    recipients = await _recipients(tx, {letter.user_id for letter in letters})
    for letter in letters:
        if recipient := recipients.get(letter.user_id):
            letter.write_to(recipient, tx.now)
    await tx.insert_missing(letters, key="order_id")


async def _recipients(tx: Transaction, users: set[UUID]) -> dict[UUID, Recipient]:
    known: dict[UUID, Recipient] = await tx.load(Recipient, users)
    if missing := users - known.keys():
        await _meet(tx, missing)
        known |= await tx.load(Recipient, missing)
    return known


async def _meet(tx: Transaction, users: Iterable[UUID]) -> None:
    """Wait for every other transaction that met over one of these users, until it has committed.

    So a user who becomes known and a letter to him that finds him unknown cannot miss each other: whichever comes
    second sees what the first has written. Locks are taken in order, so nobody waits in a circle.
    """
    keys = sorted(user.int % 2**64 - 2**63 for user in users)
    await tx.fetch(MEET, keys)


async def _take(tx: Transaction, limit: int) -> list[Letter]:
    records = await tx.fetch(TAKE, limit, LEASE_SECONDS)
    letters = [from_record(Letter, record) for record in records]
    waited = [letter for letter in letters if letter.status == "waiting"]
    recipients = await tx.load(Recipient, [letter.user_id for letter in waited])
    for letter in waited:
        assert letter.due_at is not None
        letter.write_to(recipients[letter.user_id], letter.due_at)
    await tx.update(waited, "address", "locale", "subject", "body", "status")
    return letters
