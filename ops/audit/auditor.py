"""The audit: evaluates every rule, then again those that found something, until nothing is found or time is up.

Nothing is stopped or locked. The databases are read at different moments, so a difference may only be a message under
way: what counts is what was found every time. What happened less than a minute ago is not judged by what has not
followed yet.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

from chassis.messaging.outbox import GROUP
from ops.audit import delivery, ledger, services
from ops.audit.access import Urls
from ops.audit.broker import queue_depths
from ops.audit.databases import reading
from ops.audit.delivery import Leftovers
from ops.audit.digests import LOWEST
from ops.audit.findings import INVARIANTS, Finding, Subject
from ops.audit.report import Checked, Report
from ops.audit.rules import MOST, Source, View

RULES: Final[tuple[Source, ...]] = (
    *ledger.CHECKS, *services.CHECKS, *delivery.DELIVERIES
)  # fmt: skip
"""Every rule, but for that on leftovers."""

Found = Mapping[Source, Sequence[Finding]]

IN_FLIGHT: Final = timedelta(minutes=1)
"""How long an order may be in flight before it counts as stuck."""

TIMEOUT_SECONDS: Final = 10.0
"""How long what was found is checked again."""

API_AGE_SECONDS: Final = 11.0
"""How old figures of RabbitMQ's management API may be: a quorum queue gives them, and the API collects them, every five
seconds."""

FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
"""Between two rounds: twice as long each time."""

IN_FLIGHT_ORDERS: Final = 0
"""The key of orders that are pending, among the numbers of invariants."""

COUNTS: Final = (
    ("users", "SELECT count(*) FROM users", (7,)),
    ("billing", "SELECT count(*) FROM transfers", (1, 2)),
    ("billing", "SELECT count(*) FROM accounts", (1,)),
    ("billing", "SELECT count(*) FROM charges WHERE order_id >= $1", (4, 7)),
    ("billing", "SELECT count(*) FROM charges WHERE status = 'rejected' AND order_id >= $1", (5,)),
    ("orders", "SELECT count(*) FROM orders WHERE id >= $1", (3, 4)),
    ("orders", "SELECT count(*) FROM orders WHERE status = 'pending' AND id >= $1", (0,)),
    ("notifications", "SELECT count(*) FROM notifications WHERE coalesce(order_id, id) >= $1", (6,)),
)  # fmt: skip
"""Queries by service, with the numbers of the invariants that go through what is counted."""

RECEIVED: Final = (
    "SELECT coalesce(sum(bit_count(members::bit(64))), 0)::bigint FROM inbox WHERE id >= $1"
)


async def audit(
    urls: Urls,
    also: Sequence[Source] = (),
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    at_rest: bool = False,
    since: UUID = LOWEST,
    numbers: Collection[int] = INVARIANTS.keys(),
    republished: Iterable[UUID] = (),
) -> Report:
    """Find where the invariants do not hold. Raises DatabaseUnavailableError if a database does not answer.

    `also` are further rules, as a test or a benchmark has. `at_rest` means that nothing is in flight any more, so that
    whatever is unfinished is wrong. `since` leaves out orders with lower ids, `numbers` invariants. What was
    `republished` under new ids, with these, is not judged. A broker that does not answer is noted in the report.
    """
    begun = time.monotonic()
    async with reading(urls.databases) as databases:
        grace = timedelta(0) if at_rest else IN_FLIGHT
        groups = {UUID(int=id.int // GROUP * GROUP) for id in republished}
        view = await View(databases, numbers, grace, since, urls.retention, groups).refreshed()
        leftovers = Leftovers(partial(queue_depths, urls))
        # At rest, the queues' figures must be of the rest.
        delay = min(timeout_seconds, API_AGE_SECONDS) if at_rest and urls.delayed else 0.0
        checked, first, _ = await asyncio.gather(
            _counts(view),
            evaluate(view, [*RULES, *also]),
            asyncio.sleep(delay),
        )
        first |= await evaluate(view, [leftovers])
        found, rounds = await lasting(view, first, begun + delay + timeout_seconds)
    return Report(
        seconds=time.monotonic() - begun,
        rounds=rounds,
        candidates=sum(map(len, first.values())),
        more=any(len(candidates) >= MOST for candidates in first.values()),
        in_flight=checked[IN_FLIGHT_ORDERS],
        leftovers=leftovers,
        invariants=[
            Checked(n, checked[n], [one for f in found.values() for one in f if one.number == n])
            for n in sorted(numbers)
        ],
    )


async def _counts(view: View) -> Counter[int]:
    """How many rows each invariant is evaluated on, so that an audit of nothing is noticed; and orders in flight."""
    found: Counter[int] = Counter({8: len(view.databases)})
    for service, sql, numbers in COUNTS:
        values = [view.since] if "$1" in sql else []
        count = await view.databases[service].value(sql, *values)
        found.update(dict.fromkeys(numbers, count))
    for database in view.databases.values():
        found[9] += await database.value(RECEIVED, view.retained)
    return found


async def evaluate(view: View, sources: Sequence[Source]) -> dict[Source, list[Finding]]:
    """What each of these finds once, candidates in flight included."""
    found = await asyncio.gather(*(source.find(view) for source in sources))
    return dict(zip(sources, found, strict=True))


async def lasting(view: View, first: Found, deadline: float) -> tuple[Found, int]:
    """What of this is found every time until a deadline of the monotonic clock, and in how many rounds."""
    found: Found = {s: [one for one in f if not one.in_flight] for s, f in first.items()}
    pause, rounds = FIRST_PAUSE_SECONDS, 1
    while any(found.values()) and time.monotonic() + pause < deadline:
        await asyncio.sleep(pause)
        pause, rounds = min(2 * pause, LONGEST_PAUSE_SECONDS), rounds + 1
        found = await _still_found(await view.refreshed(), found)
    return found, rounds


async def _still_found(view: View, before: Found) -> Found:
    """Evaluate again what found something, limited to that. Only what was found every time is a violation."""
    found = {}
    for source, findings in before.items():
        if findings:
            known = {_key(finding) for finding in findings}
            ids = {finding.subject.id for finding in findings if finding.subject}
            now = await source.find(view, ids)
            found[source] = [one for one in now if _key(one) in known and not one.in_flight]
    return found


def _key(finding: Finding) -> tuple[int, Subject | str]:
    """What a finding is about; the numbers in one about the whole may change from round to round."""
    return finding.number, finding.subject or _NUMBER.sub("", finding.text)


_NUMBER: Final = re.compile(r"\d+")
