"""Use cases of notifications. Each takes a transaction and a list, and returns results in the order of the list."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from apps.notifications.models import ADDRESSES, DeliveryResult, Notification, Recipient
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Transaction
from chassis.web.operators import OperatorAction
from events.base import ByOperator, Causation, Envelope
from events.billing import PaymentRejected, PaymentSucceeded
from events.users import UserRegistered, UserUpdated

LEASE_SECONDS: Final = 15.0
"""How long a lease lasts. A dispatcher extends it while it sends; if the dispatcher dies, others may lease the
notifications after this time."""

LEASE_LIMIT: Final = 128
"""Notifications that are leased at a time."""

LOCK_USERS: Final = "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key"

WAITING: Final = statements(Notification).where(
    "user_id = ANY($1::uuid[]) AND status = 'waiting' ORDER BY id"
)

LEASE: Final = f"""
WITH leased AS (UPDATE notifications SET due_at = now() + make_interval(secs => $2) WHERE id = ANY(ARRAY(
    SELECT id FROM notifications n WHERE status = 'pending' AND due_at <= now() AND channel = $3
        AND (correction = 0 OR NOT EXISTS (SELECT FROM notifications WHERE order_id = n.order_id
            AND correction < n.correction AND channel = $3 AND status IN ('waiting', 'pending')))
    ORDER BY due_at, id LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING {", ".join(statements(Notification).columns)})
SELECT * FROM leased ORDER BY id
"""  # noqa: S608 - made of our own names

EXTEND: Final = """
UPDATE notifications SET due_at = now() + make_interval(secs => extended.seconds)
FROM unnest($1::uuid[], $2::float8[]) AS extended(id, seconds)
WHERE notifications.id = extended.id AND notifications.id = ANY($1) AND status = 'pending' AND due_at > now()
RETURNING notifications.id
"""


@dataclass(frozen=True, slots=True)
class SendMessage:
    """An operator's command to send a message to a user."""

    user_id: UUID
    subject: str
    body: str
    cause: Causation
    by_operator: ByOperator | None = None


@dataclass(frozen=True, slots=True)
class ExtendLease:
    """Have a lease end so many seconds from now; 0 ends it."""

    notification_id: UUID
    seconds: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to deliver a notification; `jitter` from 0 to 1 spreads the next ones."""

    notification_id: UUID
    result: DeliveryResult
    jitter: float


async def save_recipients(
    tx: Transaction, received: Sequence[Envelope[UserRegistered | UserUpdated]]
) -> None:
    """Store recipients' newest versions, and make the notifications due that waited for them."""
    users = {e.event.user.id for e in received}
    await _lock_users(tx, users)
    await tx.upsert_newer(Recipient.copies(e.event.user for e in received))
    waiting = [from_record(Notification, record) for record in await tx.fetch(WAITING, list(users))]
    recipients = await tx.load(Recipient, [n.user_id for n in waiting])
    copies = _render(tx, waiting, recipients)
    await tx.update(waiting, "address", "locale", "subject", "body", "status", "due_at")
    await tx.insert_missing(copies)


async def notify_of_payments(
    tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]
) -> None:
    """Create notifications of joy: these orders are paid."""
    await create(tx, [Notification.joy(e, tx.new_id(), tx.now) for e in received])


async def notify_of_rejections(
    tx: Transaction, received: Sequence[Envelope[PaymentRejected]]
) -> None:
    """Create notifications of sorrow: these orders will not be paid."""
    await create(tx, [Notification.sorrow(e, tx.new_id(), tx.now) for e in received])


async def send_messages(tx: Transaction, commands: Sequence[SendMessage]) -> list[Notification]:
    """Create notifications with operators' messages."""
    messages = [
        Notification(
            id=tx.new_id(),
            user_id=c.user_id,
            kind="message",
            subject=c.subject,
            body=c.body,
            created_at=tx.now,
            **c.cause._asdict(),
        )
        for c in commands
    ]
    await create(tx, messages)
    await tx.insert(
        [
            action
            for c, message in zip(commands, messages, strict=True)
            for action in OperatorAction.of(
                tx, c.by_operator, "send", message.id, c.cause.correlation_id
            )
        ]
    )
    return messages


async def lease_due(tx: Transaction, channels: Sequence[str]) -> list[list[Notification]]:
    """Lease up to LEASE_LIMIT notifications of each channel, longest due first; no other lease covers them."""
    leased = [await tx.fetch(LEASE, LEASE_LIMIT, LEASE_SECONDS, channel) for channel in channels]
    return [[from_record(Notification, record) for record in records] for records in leased]


async def extend_leases(tx: Transaction, requests: Sequence[ExtendLease]) -> list[bool]:
    """Extend or end leases. Returns which of them had not run out."""
    ids = [request.notification_id for request in requests]
    records = await tx.fetch(EXTEND, ids, [request.seconds for request in requests])
    extended = {record["id"] for record in records}
    return [id in extended for id in ids]


async def record_attempts(tx: Transaction, attempts: Sequence[Attempt]) -> list[Notification]:
    """Record the results of attempts, and publish outcomes. The first final result of a notification stands."""
    notifications = await tx.lock(Notification, [a.notification_id for a in attempts])
    for attempt in attempts:
        notification = notifications[attempt.notification_id]
        if notification.status == "pending":
            event = notification.record(attempt.result, tx.now, attempt.jitter)
            if event is not None:
                tx.publish(event, notification.causation())
    changed = list(notifications.values())
    await tx.update(changed, "status", "attempts", "due_at", "answer", "sent_at")
    return [notifications[a.notification_id] for a in attempts]


async def create(tx: Transaction, notifications: Sequence[Notification]) -> None:
    """Insert notifications; those whose recipient is unknown wait.

    The transaction fails with asyncpg.UniqueViolationError if the place of one of them is taken. Rows are written in
    the order of the orders: two transactions that write the same places wait for each other and never deadlock.
    """
    recipients = await _recipients(tx, {n.user_id for n in notifications})
    copies = _render(tx, notifications, recipients)
    rows = [*notifications, *copies]
    rows.sort(key=lambda row: row.order_id or row.id)
    await tx.insert(rows)


def _render(
    tx: Transaction, notifications: Iterable[Notification], recipients: Mapping[UUID, Recipient]
) -> list[Notification]:
    """Render those whose recipient is known. Returns copies for the further channels that reach the recipient."""
    copies: list[Notification] = []
    for notification in notifications:
        if recipient := recipients.get(notification.user_id):
            notification.render_for(recipient, tx.now)
            copies += [
                notification.copy_for(channel, tx.new_id(), recipient)
                for channel in ADDRESSES
                if channel != notification.channel and recipient.address(channel)
            ]
    return copies


async def _recipients(tx: Transaction, users: set[UUID]) -> dict[UUID, Recipient]:
    known: dict[UUID, Recipient] = await tx.load(Recipient, users)
    if missing := users - known.keys():
        await _lock_users(tx, missing)
        known |= await tx.load(Recipient, missing)
    return known


async def _lock_users(tx: Transaction, users: Iterable[UUID]) -> None:
    """Wait for the commit of every other transaction that has locked one of these users.

    The transaction that stores a recipient and the one that creates a notification for an unknown user both take this
    lock, so the later one sees what the earlier one has written. Keys are locked in order, so there is no deadlock.
    """
    keys = sorted(user.int % 2**64 - 2**63 for user in users)
    await tx.fetch(LOCK_USERS, keys)
