"""The audit: looks at everything, then again at what was wrong, until that vanishes or patience ends.

Nobody is stopped for it. The databases are read at different moments, so what differs may only be on its way; it is
wrong if it stays. What happened less than a minute ago is not judged by what has not followed yet.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from ops.audit.broker import queue_depths
from ops.audit.databases import Databases, reading
from ops.audit.digests import LOWEST
from ops.audit.facts import Facts, History, Subject
from ops.audit.findings import NUMBERS, Finding
from ops.audit.gathering import COUNT_HEARD, gather
from ops.audit.invariants import INVARIANTS, judge
from ops.audit.report import Checked, Report
from ops.audit.suspects import Scope, Subjects, suspects

IN_FLIGHT: Final = timedelta(minutes=1)
"""How long an order may be on its way before it counts as stuck."""

PATIENCE_SECONDS: Final = 10.0
"""How long what is wrong is looked at again."""

API_AGE_SECONDS: Final = 6.0
"""How old figures of RabbitMQ's management API may be: it takes them down every five seconds."""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
"""Between two looks: twice as long each time."""


@dataclass(frozen=True)
class Urls:
    """Where the audit looks. PostgreSQL of each service; of the broker what there is."""

    databases: Mapping[str, str]
    """By service. Any role that may read the tables of `READABLE` will do."""
    amqp: Mapping[str, str] = field(default_factory=dict)
    """By service, with a login that may read its queues."""
    rabbitmq_api: str | None = None
    vhost: str = "/"

    @property
    def shown_late(self) -> bool:
        """Whether what is known of the queues comes from the management API, and may be old."""
        return self.rabbitmq_api is not None and not self.amqp


async def audit(
    urls: Urls,
    history: History | None = None,
    *,
    patience: float = PATIENCE_SECONDS,
    at_rest: bool = False,
    since: UUID = LOWEST,
    numbers: Collection[int] = NUMBERS,
) -> Report:
    """Say where the invariants do not hold. Raises CannotLook if a database does not answer.

    `history` is what clients were answered; it must tell of every order from `since` on. `patience` is in seconds.
    `at_rest` says that nothing is on its way any more, so that whatever is unfinished is wrong. `since` leaves out
    orders with lower ids, `numbers` invariants. A broker that does not answer is noted in the report, no error.
    """
    begun = time.monotonic()
    scope = Scope(since, numbers, timedelta(0) if at_rest else IN_FLIGHT)
    async with reading(urls.databases) as databases:
        # At rest, what is told of the queues must be of the rest.
        stale = min(patience, API_AGE_SECONDS) if at_rest and urls.shown_late else 0.0
        checked, subjects, _ = await asyncio.gather(
            _counts(databases, scope), suspects(databases, scope), asyncio.sleep(stale)
        )
        suspected = sum(map(len, subjects.ids.values()))
        pause, looks = FIRST_PAUSE_SECONDS, 1
        facts, found = await _look(urls, databases, scope, subjects, history)
        while any(found.values()) and time.monotonic() + pause - begun < patience:
            await asyncio.sleep(pause)
            pause, looks = min(2 * pause, LONGEST_PAUSE_SECONDS), looks + 1
            # Only what was wrong at every look is wrong, so only that is looked at again.
            again = Subjects.of(one.subject for findings in found.values() for one in findings)
            facts, now = await _look(urls, databases, scope, again, history)
            found = {number: _still(found[number], now[number]) for number in found}
    return Report(
        seconds=time.monotonic() - begun,
        looks=looks,
        suspects=suspected,
        more=subjects.many,
        in_flight=checked["in flight"],
        queues=facts.queues,
        waiting={service: waiting.rows for service, waiting in facts.outboxes.items()},
        open_letters=facts.open_letters,
        invariants=[
            Checked(one.number, one.name, checked[str(one.number)], found[one.number])
            for one in INVARIANTS
            if one.number in numbers
        ],
    )


async def _look(
    urls: Urls, databases: Databases, scope: Scope, subjects: Subjects, history: History | None
) -> tuple[Facts, dict[int, list[Finding]]]:
    depths = await queue_depths(urls.amqp, urls.rabbitmq_api, urls.vhost)
    facts = await gather(databases, scope, subjects, history=history, queues=depths)
    return facts, judge(facts, scope.numbers)


def _still(before: list[Finding], now: list[Finding]) -> list[Finding]:
    """Those of now that are about what was wrong before, as well."""
    known = {_about(finding) for finding in before}
    return [finding for finding in now if _about(finding) in known]


def _about(finding: Finding) -> Subject | str:
    """What a finding is about; one about the whole says it in words, and its numbers may change from look to look."""
    return finding.subject or _NUMBER.sub("", finding.text)


_NUMBER: Final = re.compile(r"\d+")

COUNTS: Final = {
    "users": {"users": "SELECT count(*) FROM users"},
    "billing": {
        "transfers": "SELECT count(*) FROM transfers",
        "accounts": "SELECT count(*) FROM accounts",
        "charges": "SELECT count(*) FROM charges WHERE order_id >= $1",
        "refusals": "SELECT count(*) FROM charges WHERE status = 'rejected' AND order_id >= $1",
    },
    "orders": {
        "orders": "SELECT count(*) FROM orders WHERE id >= $1",
        "in flight": "SELECT count(*) FROM orders WHERE status = 'pending' AND id >= $1",
    },
    "notifications": {
        "letters": "SELECT count(*) FROM notifications WHERE coalesce(order_id, id) >= $1"
    },
}
ABOUT: Final = {
    1: ("transfers", "accounts"), 2: ("transfers",), 3: ("orders",), 4: ("orders", "charges"), 5: ("refusals",),
    6: ("letters",), 7: ("users", "charges"), 8: ("outboxes",), 9: ("heard",),
}  # fmt: skip
"""What each invariant goes through."""


async def _counts(databases: Databases, scope: Scope) -> Counter[str]:
    """How much each invariant has to go through, by its number; and how many orders are pending."""
    found: Counter[str] = Counter()
    for service, counts in COUNTS.items():
        for name, sql in counts.items():
            values = [scope.since] if "$1" in sql else []
            [found[name]] = await databases[service].column(sql, *values)
    for database in databases.values():
        found["heard"] += (await database.column(COUNT_HEARD, scope.remembered))[0]
        found["outboxes"] += 1
    found.update(
        {str(number): sum(found[name] for name in about) for number, about in ABOUT.items()}
    )
    return found
