"""Finds what may be wrong among millions of rows: each database sums up, and names only the ids of what looks odd.

Whoever is named here is not wrong yet: the invariants judge it, by facts that are fetched about it alone. What these
queries overlook, nobody looks at; so each invariant has tests that spoil real tables.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from apps.billing.models import CASH, REVENUE
from events.base import least_id
from ops.audit.databases import Databases
from ops.audit.digests import LOWEST, Lines, differing
from ops.audit.facts import Kind, Subject
from ops.audit.travel import HEARS_AS_WELL

MOST: Final = 20_000
"""Suspects of one kind that are looked at, the oldest first; of what is found, this many and perhaps more are wrong."""

COPIES: Final = {"billing": "holders", "orders": "customers", "notifications": "recipients"}
"""Where services keep their copies of users."""

REMEMBERED: Final = timedelta(days=30)
"""How far back heard events are looked at; services forget them after 35 days."""

ACCOUNTS: Final = """
WITH entries AS (SELECT account_id AS id, sum(amount) AS amount FROM ledger_entries GROUP BY 1),
moved AS (
    SELECT account_id AS id, count(*) AS transfers,
        sum(CASE WHEN kind IN ('deposit', 'refund') THEN amount ELSE -amount END) AS amount
    FROM transfers GROUP BY 1
)
SELECT id FROM accounts LEFT JOIN entries USING (id) LEFT JOIN moved USING (id)
WHERE balance < 0 OR balance <> coalesce(entries.amount, 0) OR balance <> coalesce(moved.amount, 0)
    OR version <> coalesce(transfers, 0) + 1
ORDER BY id LIMIT $1
"""
TRANSFERS: Final = f"""
SELECT id FROM (
    SELECT *, kind IN ('deposit', 'refund') AS incoming,
        CASE WHEN kind IN ('deposit', 'withdrawal') THEN '{CASH}'::uuid ELSE '{REVENUE}'::uuid END AS other,
        lag(balance, 1, 0::bigint) OVER wallet AS before, lag(account_version, 1, 1) OVER wallet AS version
    FROM transfers WINDOW wallet AS (PARTITION BY account_id ORDER BY account_version)
) AS moved
WHERE balance < 0 OR account_version <> version + 1
    OR balance <> before + CASE WHEN incoming THEN amount ELSE -amount END
    OR (debit_account, credit_account) IS DISTINCT FROM
        (CASE WHEN incoming THEN other ELSE account_id END, CASE WHEN incoming THEN account_id ELSE other END)
    OR (order_id IS NULL) <> (kind IN ('deposit', 'withdrawal'))
ORDER BY id LIMIT $1
"""
UNBALANCED: Final = """
SELECT transaction_id FROM ledger_entries GROUP BY 1 HAVING sum(amount) <> 0 ORDER BY 1 LIMIT $1
"""
CHARGES: Final = """
SELECT c.order_id FROM charges c
LEFT JOIN transfers p ON p.order_id = c.order_id AND p.kind = 'payment'
LEFT JOIN transfers r ON r.order_id = c.order_id AND r.kind = 'refund'
LEFT JOIN transfers s ON s.account_id = c.account_id AND s.account_version = c.account_version
WHERE c.order_id >= $2 AND (
    (p.id IS NOT NULL) <> (c.status IN ('paid', 'refunded')) OR (r.id IS NOT NULL) <> (c.status = 'refunded')
    OR (p.amount, p.account_id) <> (c.amount, c.account_id) OR (r.amount, r.account_id) <> (c.amount, c.account_id)
    OR c.status = 'rejected' AND c.reason IS DISTINCT FROM 'order_cancelled' AND (
        c.balance >= c.amount
        OR c.balance IS DISTINCT FROM coalesce(s.balance, CASE WHEN c.account_version = 1 THEN 0 END)))
ORDER BY 1 LIMIT $1
"""
DEBITED: Final = """
SELECT order_id FROM transfers t WHERE order_id >= $2
GROUP BY order_id HAVING count(*) > count(DISTINCT kind)
    OR NOT EXISTS (SELECT FROM charges c WHERE c.order_id = t.order_id)
ORDER BY 1 LIMIT $1
"""
TOO_LATE: Final = """
SELECT order_id FROM charges WHERE status = 'rejected' AND reason = 'order_cancelled' AND order_id >= $1
"""
NOT_CANCELLED: Final = "SELECT id FROM orders WHERE id = ANY($1) AND status <> 'cancelled'"

ORDERS: Final = """
SELECT id FROM orders WHERE id >= $2 AND (
    status = 'pending' AND placed_at <= now() - $3::interval
    OR (status = 'pending') <> (settled_at IS NULL) OR refunded_at IS NOT NULL AND status <> 'cancelled'
    OR NOT CASE status WHEN 'pending' THEN version = 1 WHEN 'cancelled' THEN version IN (2, 3) ELSE version = 2 END)
ORDER BY id LIMIT $1
"""
LETTERS: Final = """
SELECT l.id FROM notifications l LEFT JOIN recipients r ON r.id = l.user_id
WHERE coalesce(l.order_id, l.id) >= $2 AND (
    r.version = 1 AND l.address <> r.email
    OR l.causation_id >= $3 AND NOT EXISTS (SELECT FROM inbox WHERE event_id = l.causation_id))
ORDER BY 1 LIMIT $1
"""

DECIDED: Final = (
    Lines("orders", """
        SELECT id, ROW(user_id, total, CASE WHEN status = 'paid' THEN 'paid' WHEN refunded_at IS NOT NULL THEN 'back'
            ELSE 'not paid' END)::text AS line FROM orders WHERE status <> 'pending'"""),
    Lines("billing", """
        SELECT order_id AS id, ROW(user_id, amount, CASE status WHEN 'paid' THEN 'paid' WHEN 'refunded' THEN 'back'
            WHEN 'rejected' THEN 'not paid' ELSE status END)::text AS line FROM charges"""),
)  # fmt: skip
WRITTEN: Final = (
    Lines("billing", """
        SELECT order_id AS id, ROW(user_id, amount, kind)::text AS line FROM charges JOIN (VALUES
            ('paid', 'joy'), ('refunded', 'joy'), ('refunded', 'refund'), ('rejected', 'sorrow'))
            AS due (status, kind) USING (status)"""),
    Lines("notifications", """
        SELECT order_id AS id, ROW(user_id, amount, kind)::text AS line FROM notifications WHERE order_id IS NOT NULL"""),
)  # fmt: skip


REMEMBERED_EVENTS: Final = "SELECT event_id FROM inbox WHERE event_id >= $1"
UNHEARD: Final = """
SELECT id FROM unnest($1::uuid[]) AS id WHERE NOT EXISTS (SELECT FROM inbox WHERE event_id = id) ORDER BY id LIMIT $2
"""
_HEARD: Final = "SELECT event_id AS id, '' AS line FROM inbox"
PROCESSED: Final = tuple(
    (Lines(one, _HEARD), Lines(other, _HEARD))
    for one, other in HEARS_AS_WELL
    if one < other and (other, one) in HEARS_AS_WELL
)
"""Pairs of services that hear the same."""


def _users(service: str, table: str) -> Lines:
    return Lines(
        service,
        f"SELECT id, ROW(email, name, locale, version)::text AS line FROM {table}",
    )


@dataclass
class Scope:
    """What an audit is about: orders from an id on, by some of the invariants; and what counts as in flight."""

    since: UUID = LOWEST
    numbers: Collection[int] = frozenset()
    grace: timedelta = timedelta(0)

    @property
    def remembered(self) -> UUID:
        """The least id of an event that every inbox must remember."""
        return least_id(datetime.now(UTC) - REMEMBERED)


@dataclass
class Subjects:
    """What is to be looked at."""

    ids: dict[Kind, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    many: bool = False
    """Whether there is more than was looked at."""

    def add(self, kind: Kind, ids: Iterable[UUID]) -> None:
        """Also look at these."""
        found = list(ids)
        self.many = self.many or len(found) >= MOST
        self.ids[kind].update(found)

    @classmethod
    def of(cls, subjects: Iterable[Subject | None]) -> "Subjects":
        """Those that findings are about."""
        made = cls()
        for subject in subjects:
            if subject is not None:
                made.ids[subject.kind].add(subject.id)
        return made


async def suspects(databases: Databases, scope: Scope) -> Subjects:
    """Everything that looks odd at one look."""
    found = Subjects()
    looks = {
        _money: {1, 2, 4, 5}, _orders: {3}, _decided: {4, 7}, _letters: {6, 9}, _written: {6}, _copies: {7},
        _inboxes: {9},
    }  # fmt: skip
    await asyncio.gather(
        *(
            look(databases, scope, found)
            for look, about in looks.items()
            if about & {*scope.numbers}
        )
    )
    return found


async def _money(databases: Databases, scope: Scope, found: Subjects) -> None:
    billing = databases["billing"]
    found.add("account", await billing.column(ACCOUNTS, MOST))
    found.add("transfer", await billing.column(TRANSFERS, MOST))
    found.add("transfer", await billing.column(UNBALANCED, MOST))
    found.add("order", await billing.column(CHARGES, MOST, scope.since))
    found.add("order", await billing.column(DEBITED, MOST, scope.since))
    too_late = await billing.column(TOO_LATE, scope.since)
    found.add("order", await databases["orders"].column(NOT_CANCELLED, too_late))


async def _orders(databases: Databases, scope: Scope, found: Subjects) -> None:
    found.add("order", await databases["orders"].column(ORDERS, MOST, scope.since, scope.grace))


async def _decided(databases: Databases, scope: Scope, found: Subjects) -> None:
    found.add("order", await differing(databases, *DECIDED, scope.since, MOST))


async def _written(databases: Databases, scope: Scope, found: Subjects) -> None:
    found.add("order", await differing(databases, *WRITTEN, scope.since, MOST))


async def _letters(databases: Databases, scope: Scope, found: Subjects) -> None:
    letters = databases["notifications"].column(LETTERS, MOST, scope.since, scope.remembered)
    found.add("letter", await letters)


async def _copies(databases: Databases, _scope: Scope, found: Subjects) -> None:
    for service, table in COPIES.items():
        owner, copy = _users("users", "users"), _users(service, table)
        found.add("user", await differing(databases, owner, copy, LOWEST, MOST))


async def _inboxes(databases: Databases, scope: Scope, found: Subjects) -> None:
    for sides in PROCESSED:
        found.add("event", await differing(databases, *sides, scope.remembered, MOST))
    for one, other in HEARS_AS_WELL:
        if (other, one) not in HEARS_AS_WELL:
            received = await databases[one].column(REMEMBERED_EVENTS, scope.remembered)
            found.add("event", await databases[other].column(UNHEARD, received, MOST))
