"""What a snapshot must fulfil beside the rules of `ops.audit`, with the same nine invariants' numbers.

These rules need every published event or the mail server, which no operator's audit has.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from apps import SERVICES
from events.base import Event
from events.billing import AccountState
from events.notifications import NotificationFailed, NotificationSent
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected, OrderState
from events.users import UserRegistered, UserState, UserUpdated
from ops.audit.findings import Finding
from ops.subscriptions import SUBSCRIPTIONS
from tests.stories.snapshot import Snapshot

OUTCOMES: Final = {
    "paid": {(1, 0, 0)},
    "rejected": {(0, 1, 0)},
    "cancelled": {(0, 0, 1), (1, 0, 1)},
}
"""How often OrderPaid, OrderRejected and OrderCancelled are published about an order in each status."""


def violations(snapshot: Snapshot) -> list[str]:
    """What is wrong, a line each."""
    rules = (_outcomes, _requests, _addresses, _mail, _last_events, _received)
    return list(dict.fromkeys(str(finding) for rule in rules for finding in rule(snapshot)))


def published(snapshot: Snapshot, kind: type[Event]) -> Counter[UUID]:
    """How many different events of a kind there are about each aggregate."""
    return Counter(
        UUID(envelope.event.subject)
        for envelope in snapshot.events
        if isinstance(envelope.event, kind) and envelope.id not in snapshot.history.republished
    )


def _outcomes(snapshot: Snapshot) -> Iterator[Finding]:
    """Each order was placed once, and has the events of one outcome."""
    placed = published(snapshot, OrderPlaced)
    counted = [published(snapshot, kind) for kind in (OrderPaid, OrderRejected, OrderCancelled)]
    for order in snapshot.orders:
        events = tuple(count[order.id] for count in counted)
        if order.status != "pending" and (
            placed[order.id] != 1 or events not in OUTCOMES[order.status]
        ):
            text = f"order {order.id} is {order.status}, placed {placed[order.id]} times, with events {events}"
            yield Finding(3, text)
    for id in placed.keys() - {order.id for order in snapshot.orders}:
        yield Finding(3, f"order {id} was published and is lost")


def _requests(snapshot: Snapshot) -> Iterator[Finding]:
    """Each order was asked for, by a request that was not refused."""
    asked = {one.correlation_id for one in snapshot.history.attempts if not one.refused}
    for envelope in snapshot.events:
        if isinstance(envelope.event, OrderPlaced) and envelope.cause.correlation_id not in asked:
            yield Finding(3, f"order {envelope.event.order.id} was never asked for, or refused")


def _addresses(snapshot: Snapshot) -> Iterator[Finding]:
    """A notification has an address that its user has had."""
    known: dict[UUID, set[str]] = defaultdict(set)
    for envelope in snapshot.events:
        if isinstance(envelope.event, UserRegistered | UserUpdated):
            known[envelope.event.user.id].add(envelope.event.user.email)
    for one in snapshot.notifications:
        if one.address is not None and one.address not in known[one.user_id]:
            yield Finding(6, f"notification {one.id} for user {one.user_id} has another's address")


def _mail(snapshot: Snapshot) -> Iterator[Finding]:
    """Each notification arrived, or failed because it was refused; with few copies, and nothing else arrived."""
    arrived: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for id, recipients, subject in snapshot.mail.arrived:
        arrived[id].append((recipients, subject))
    sent, failed = published(snapshot, NotificationSent), published(snapshot, NotificationFailed)
    copies = 0
    for one in snapshot.notifications:
        found = arrived.pop(str(one.id), [])
        refused = one.address in snapshot.mail.refused_for_good
        end = (one.status, sent[one.id], failed[one.id])
        if end != (("failed", 0, 1) if refused else ("sent", 1, 0)):
            yield Finding(6, f"notification {one.id} has no such end: {end}")
        if bool(found) == refused or set(found) - {((one.address,), one.subject)}:
            yield Finding(6, f"notification {one.id} arrived as {found}")
        copies += max(0, len(found) - 1)
    for id, found in arrived.items():
        yield Finding(6, f"e-mail {id} belongs to no notification: {found}")
    if copies > snapshot.mail.extra_copies:
        text = f"{copies} extra copies were sent, {snapshot.mail.extra_copies} may be"
        yield Finding(6, text)


def _last_events(snapshot: Snapshot) -> Iterator[Finding]:
    """The last event about each user, order and account has the state of its row."""
    for name, rows in (
        ("user", snapshot.users),
        ("order", snapshot.orders),
        ("account", snapshot.accounts),
    ):
        newest = _newest(snapshot, name)
        if newest.keys() != {row.id for row in rows}:
            yield Finding(7, f"events are about {len(newest)} {name}s, there are {len(rows)}")
        for row in rows:
            state = dict(newest.get(row.id, ()))
            differing = {k: v for k, v in vars(row).items() if k in state and state[k] != v}
            if differing:
                yield Finding(7, f"{name} {row.id}: the last event differs from {differing}")


State = OrderState | UserState | AccountState


def _newest(snapshot: Snapshot, name: str) -> dict[UUID, State]:
    newest: dict[UUID, State] = {}
    for envelope in snapshot.events:
        state: State | None = getattr(envelope.event, name, None)
        if state and (state.id not in newest or newest[state.id].version < state.version):
            newest[state.id] = state
    return newest


def _received(snapshot: Snapshot) -> Iterator[Finding]:
    """Each service has received exactly what it subscribes to."""
    for service in SERVICES:
        subscribed = {e.id for e in snapshot.events if isinstance(e.event, SUBSCRIPTIONS[service])}
        received = snapshot.inboxes[service]
        if lost := subscribed - received:
            yield Finding(9, f"{service} has never received {lost}")
        if invented := received - subscribed:
            yield Finding(9, f"{service} has received {invented}, never published")
