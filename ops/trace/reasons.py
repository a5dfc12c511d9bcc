"""Why a hop is missing, and where the event or the notification waits. Decided from facts alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from chassis.messaging.topology import DEAD
from events.base import rfc3339
from ops.audit.auditor import API_AGE_SECONDS
from ops.audit.broker import Queue
from ops.trace.facts import Facts, Published, Record

Place = Literal[
    "outbox", "queue", "consumer", "dead letters", "lost", "under way", "notification", "order",
    "event log", "unknown",
]  # fmt: skip

PUBLISHING: Final = timedelta(seconds=5)
"""How long a publish may take before the broker counts as away: the relay's own time limit."""

FIGURES: Final = timedelta(seconds=API_AGE_SECONDS)


@dataclass(frozen=True)
class Missing:
    """A hop that has not happened."""

    place: Place
    where: str
    """The queue, outbox, service or table."""
    reason: str
    event: UUID | None = None
    """What waits or is lost."""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


def clock(moment: datetime) -> str:
    """A time of day, in UTC: 14:43:35.191."""
    return rfc3339(moment)[11:23]


def why_not_received(facts: Facts, event: Published, service: str, queue: str) -> Missing:
    """Why a subscriber has not handled an event."""
    place, where, reason = _unreceived(facts, event, service, queue)
    return Missing(place, where, reason, event.id)


def why_not_published(facts: Facts, event: Published) -> Missing:
    """Why an event to which nobody subscribes is in the outbox."""
    reason = f"{event.name}: {_unpublished(facts, event)}"
    return Missing("outbox", f"outbox of {event.service}", reason, event.id)


def _unreceived(facts: Facts, event: Published, service: str, queue: str) -> tuple[Place, str, str]:
    if event.row in facts.outbox:
        return "outbox", f"outbox of {event.service}", _unpublished(facts, event, queue)
    for dead in facts.dead or ():
        if dead.service == service and dead.holds(event.id, queue):
            since = f" since {dead.since:%F %T} UTC" if dead.since else ""
            attempts = f" after {dead.attempts} attempts" if dead.attempts else ""
            return (
                "dead letters",
                f"{service}.{DEAD}",
                f"dead-lettered{since}{attempts}: {dead.reason}",
            )
    if facts.queues is None:
        return "unknown", queue, "published, and the broker does not answer or is not configured"
    if (found := facts.queues.found.get(queue)) is None:
        return "lost", queue, "published, and there is no such queue: chorus migrate makes it"
    return _queued(facts, event, service, queue, found)


def _queued(
    facts: Facts, event: Published, service: str, name: str, queue: Queue
) -> tuple[Place, str, str]:
    # The number of consumers may be of ten seconds ago.
    if queue.ready and not (queue.consumers and facts.sessions.get(service)):
        return "queue", name, f"{_messages(queue.ready)}, no consumer: {_runs(facts, service)}"
    if queue.ready:
        return "queue", name, f"{_messages(queue.ready)}: {service} is behind"
    if queue.unacknowledged:
        held = f"{_messages(queue.unacknowledged)} delivered and not acknowledged"
        return "consumer", service, f"{held}: {service} handles or retries it, or hangs"
    return _gone(facts, event, service, name, queue)


def _gone(
    facts: Facts, event: Published, service: str, name: str, queue: Queue
) -> tuple[Place, str, str]:
    assert facts.queues is not None
    if facts.queues.delayed and facts.now - event.committed_at < FIGURES:
        return "under way", name, "too young for the broker's figures"
    dead = facts.queues.found.get(f"{service}.{DEAD}")
    if facts.dead is None and dead is not None and dead.ready:
        held = f"may be there, in {_messages(dead.ready)} that this login may not read"
        return "unknown", f"{service}.{DEAD}", f"{held}: chorus dead list"
    if name in facts.queues.unbound:
        return "lost", name, "published while the queue was not bound: chorus migrate, republish"
    if queue.unacknowledged is None and queue.consumers:
        return "unknown", name, f"not in the queue: {service} has it, or it is lost"
    return "lost", name, "published, and in no queue: it was purged, or the broker lost it"


def _unpublished(facts: Facts, event: Published, queue: str = "") -> str:
    rests = facts.outbox[event.row]
    if rests is not None and (facts.queues is None or queue not in facts.queues.unbound):
        return f"rests until {clock(rests)}: the broker returned or refused it"
    if facts.queues is not None and queue in facts.queues.unbound:
        return "the broker returns it, as no queue is bound: chorus migrate"
    if not facts.sessions.get(event.service):
        return f"{event.service} does not run, so nobody publishes it"
    if facts.queues is None:
        return "the broker does not answer or is not configured"
    if facts.now - event.committed_at < PUBLISHING:
        return "is being published"
    return "the broker does not confirm it"


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"


def _runs(facts: Facts, service: str) -> str:
    if facts.sessions.get(service):
        return f"{service} runs, and is cut off from the broker"
    return f"{service} does not run"


def why_not_sent(facts: Facts, notification: Record) -> Missing | None:
    """Why a notification is neither sent nor failed; None if it is."""
    where = f"{notification['kind']} notification {notification['id']}"
    if notification["status"] == "waiting":
        user = notification["user_id"]
        known = any(one["id"] == user for one in facts.users)
        unknown = f"{user} is unknown to notifications" + ("" if known else ", and to users")
        return Missing("notification", where, f"waits for its recipient: {unknown}")
    if notification["status"] != "pending":
        return None
    if not facts.sessions.get("notifications"):
        return Missing("notification", where, "is not sent: notifications does not run")
    due = clock(notification["due_at"])
    if notification["attempts"]:
        answer = f"the mail server answered: {notification['answer']}"
        reason = f"rests until {due} after {notification['attempts']} attempts: {answer}"
    elif notification["due_at"] > facts.now:
        reason = f"is being sent, or its lease ends at {due}"
    else:
        reason = f"is due since {due}, and no attempt counts: the mail server is away"
    return Missing("notification", where, reason)
