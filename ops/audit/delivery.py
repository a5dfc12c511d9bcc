"""Rules on the delivery of events: nothing is left over, and what was published was received."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from itertools import permutations
from typing import Final

from apps import SERVICES
from chassis.messaging.topology import DEAD
from events.users import SigningKeyPublished
from ops.audit.digests import Ids, Lines
from ops.audit.findings import Finding
from ops.audit.rules import RETAINED, Comparison, View, WholeCheck
from ops.subscriptions import SUBSCRIPTIONS

OUTBOX: Final = """
SELECT coalesce(sum(events), 0) AS events,
    coalesce(sum(events) FILTER (WHERE $1::interval = '0' OR occurred_at <= now() - $1), 0) AS overdue
FROM outbox JOIN event_log USING (id)
"""
UNSENT: Final = "SELECT count(*) FROM notifications WHERE status IN ('waiting', 'pending')"


class Leftovers:
    """Nothing stays in an outbox, nothing is dead-lettered. At rest all queues are empty and nothing is unsent.

    The figures are those of the last time it was evaluated.
    """

    queues: Mapping[str, int] | None = None
    """Messages by queue; None if the broker was not available."""
    unsent = 0
    """Notifications that are neither sent nor failed."""

    def __init__(self, depths: Callable[[], Awaitable[Mapping[str, int] | None]]) -> None:
        self._depths = depths
        self.outboxes: dict[str, int] = {}
        """Events by service."""

    async def find(self, view: View, _ids: Ids = None) -> list[Finding]:
        found, resting = [], not view.grace
        self.queues = await self._depths()
        for queue, messages in (self.queues or {}).items():
            if messages and (resting or queue.endswith(f".{DEAD}")):
                found.append(f"{messages} messages lie in {queue}")
        for service, database in view.databases.items():
            [[events, overdue]] = await database.rows(OUTBOX, view.grace)
            self.outboxes[service] = events
            if overdue:
                found.append(f"{overdue} events stay in the outbox of {service}")
        self.unsent = await view.databases["notifications"].value(UNSENT)
        if resting and self.unsent:
            found.append(f"{self.unsent} notifications are not sent")
        return [Finding(8, text) for text in found if 8 in view.numbers]


def _inbox(service: str) -> Lines:
    sql = "SELECT event_id AS id, 'received it' AS line, received_at AS at FROM inbox"
    return Lines(service, sql)


def _also_received() -> Iterator[Comparison]:
    for one, other in permutations(SERVICES, 2):
        mine, theirs = set(SUBSCRIPTIONS[one]), set(SUBSCRIPTIONS[other])
        if mine < theirs or (mine == theirs and one < other):
            yield Comparison(9, "event", _inbox(one), _inbox(other), subset=mine < theirs)


ALSO_RECEIVED: Final = tuple(_also_received())
"""Published events leave the outbox, so inboxes are compared: one that subscribes to the same has received the same."""

PUBLISHED: Final = {
    "users": """
        SELECT coalesce(sum(CASE WHEN created_at >= $1 THEN version ELSE version - 1 END), 0) FROM users
        WHERE updated_at >= $1""",
    "orders": """
        SELECT count(*) FILTER (WHERE placed_at >= $1)
            + count(*) FILTER (WHERE status = 'cancelled' AND (version > 2 OR settled_at >= $1)) FROM orders""",
    "billing": """
        SELECT count(*) FILTER (WHERE status <> 'cancelled' AND (created_at >= $1 OR reason = 'order_cancelled'))
            + count(*) FILTER (WHERE refunded_at >= $1) FROM charges""",
}
"""The most events that a service can have published about its rows since a moment."""


async def received(view: View) -> dict[str, int]:
    """How many events each service has received, of those that every inbox must still hold."""
    sql = "SELECT count(*) FROM inbox WHERE event_id >= $1"
    return {
        service: await view.databases[service].value(sql, view.retained) for service in SERVICES
    }


async def _invented(view: View) -> list[str]:
    """A service has received no more events than were published.

    No table counts signing keys, but every service subscribes to them: what a service has received beside the events
    about rows is at most what another one has.
    """
    counts = await received(view)
    since = view.now - RETAINED - timedelta(minutes=1)
    published = {
        service: await view.databases[service].value(sql, since)
        for service, sql in PUBLISHED.items()
    }
    beside = {}
    for service, kinds in SUBSCRIPTIONS.items():
        publishers = {
            kind.exchange for kind in kinds if kind is not SigningKeyPublished
        } & PUBLISHED.keys()
        beside[service] = counts[service] - sum(published[one] for one in publishers)
    most = {one: max(beside[other] for other in SERVICES if other != one) for one in SERVICES}
    return [
        f"{service} has received {count - most[service]} events that were never published"
        for service, count in beside.items()
        if count > most[service] + view.republished
    ]


NOTHING_INVENTED: Final = WholeCheck(9, _invented)
