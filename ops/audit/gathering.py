"""Fetches facts: about some subjects, or about all there is."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from apps import SERVICES
from ops.audit.databases import Databases
from ops.audit.facts import (
    Account,
    Charge,
    Facts,
    History,
    Letter,
    Order,
    Totals,
    Transfer,
    User,
    Waiting,
)
from ops.audit.suspects import COPIES, REMEMBERED, Scope, Subjects

ACCOUNTS: Final = """
WITH entries AS (
    SELECT account_id AS id, sum(amount)::bigint AS amount FROM ledger_entries
    WHERE $1::uuid[] IS NULL OR account_id = ANY($1) GROUP BY 1
), moved AS (
    SELECT account_id AS id, count(*) AS transfers,
        sum(CASE WHEN kind IN ('deposit', 'refund') THEN amount ELSE -amount END)::bigint AS amount
    FROM transfers WHERE $1::uuid[] IS NULL OR account_id = ANY($1) GROUP BY 1
)
SELECT id, balance, version, coalesce(entries.amount, 0) AS entries, coalesce(moved.amount, 0) AS moved,
    coalesce(transfers, 0) AS transfers
FROM accounts LEFT JOIN entries USING (id) LEFT JOIN moved USING (id) WHERE $1::uuid[] IS NULL OR id = ANY($1)
"""
TRANSFERS: Final = """
SELECT id, kind, debit_account, credit_account, amount, t.account_id, t.account_version, t.balance, order_id,
    coalesce(before.balance, 0) AS balance_before, coalesce(before.account_version, 1) AS version_before,
    (SELECT coalesce(sum(amount), 0)::bigint FROM ledger_entries WHERE transaction_id = t.id) AS entries
FROM transfers t LEFT JOIN LATERAL (
    SELECT balance, account_version FROM transfers earlier
    WHERE earlier.account_id = t.account_id AND earlier.account_version < t.account_version
    ORDER BY account_version DESC LIMIT 1
) AS before ON true
WHERE $1::uuid[] IS NULL OR id = ANY($1) OR order_id = ANY($2)
"""
CHARGES: Final = """
SELECT c.order_id, user_id, c.account_id, c.amount, status, reason, c.balance, c.account_version, c.created_at,
    refunded_at, coalesce(s.balance, CASE WHEN c.account_version = 1 THEN 0 END) AS stood
FROM charges c LEFT JOIN transfers s USING (account_id, account_version)
WHERE $1::uuid[] IS NULL OR c.order_id = ANY($1)
"""
ORDERS: Final = """
SELECT id, user_id, total, status, reason, placed_at, settled_at, refunded_at, version FROM orders
WHERE $1::uuid[] IS NULL OR id = ANY($1)
"""
LETTERS: Final = """
SELECT l.id, user_id, order_id, kind, amount, address, subject, status, created_at, correlation_id,
    r.email AS known_email, r.version AS known_version, causation_id,
    causation_id IS NULL OR causation_id < $3 OR EXISTS (SELECT FROM inbox WHERE event_id = causation_id) AS received
FROM notifications l LEFT JOIN recipients r ON r.id = user_id
WHERE $1::uuid[] IS NULL OR l.id = ANY($1) OR order_id = ANY($2)
"""
USERS: Final = """
SELECT id, email, name, locale, version FROM {table} WHERE $1::uuid[] IS NULL OR id = ANY($1)
"""
CHANGED: Final = "SELECT id, updated_at FROM users WHERE $1::uuid[] IS NULL OR id = ANY($1)"
ORDERS_OF: Final = """
SELECT DISTINCT order_id FROM {table} WHERE id = ANY($1) AND order_id IS NOT NULL
"""
PROCESSED: Final = "SELECT event_id FROM inbox WHERE $1::uuid[] IS NULL OR event_id = ANY($1)"
KEYS: Final = "SELECT key_id, x FROM signing_keys WHERE valid_until > now()"
TOTALS: Final = """
SELECT (SELECT coalesce(sum(balance), 0)::bigint FROM accounts) AS wallets,
    (SELECT coalesce(sum(CASE WHEN kind IN ('deposit', 'refund') THEN amount ELSE -amount END), 0)::bigint
        FROM transfers) AS moved
"""
OUTBOX: Final = """
SELECT count(*) AS rows, count(*) FILTER (WHERE $1::interval = '0' OR occurred_at <= now() - $1) AS overdue FROM outbox
"""
OPEN_LETTERS: Final = "SELECT count(*) FROM notifications WHERE status IN ('waiting', 'pending')"
FLOWS: Final = """
SELECT correlation_id, order_id FROM notifications WHERE correlation_id = ANY($1) AND kind IN ('joy', 'sorrow')
"""
STRANGERS: Final = """
SELECT id, user_id, total, status, reason, placed_at, settled_at, refunded_at, version FROM orders
WHERE id >= $1 AND NOT EXISTS (SELECT FROM unnest($2::uuid[]) AS named WHERE named = id)
"""

COUNT_HEARD: Final = "SELECT count(*) FROM inbox WHERE event_id >= $1"
TOLD_OF_USERS: Final = """
SELECT coalesce(sum(CASE WHEN created_at >= $1 THEN version WHEN updated_at >= $1 THEN version - 1 ELSE 0 END), 0)
FROM users
"""
TOLD_OF_ORDERS: Final = """
SELECT count(*) FILTER (WHERE placed_at >= $1)
    + count(*) FILTER (WHERE status = 'cancelled' AND (version > 2 OR settled_at >= $1)) FROM orders
"""
TOLD_OF_PAYMENTS: Final = """
SELECT count(*) FILTER (WHERE status <> 'cancelled' AND (created_at >= $1 OR reason = 'order_cancelled'))
    + count(*) FILTER (WHERE refunded_at >= $1) FROM charges
"""


async def gather(
    databases: Databases,
    scope: Scope,
    subjects: Subjects | None = None,
    *,
    history: History | None = None,
    queues: Mapping[str, int] | None = None,
) -> Facts:
    """Facts about subjects; about everything if none are named. What is about the whole is always there."""
    now: datetime = (await databases["billing"].row("SELECT now()"))[0]
    facts = Facts(
        now=now,
        grace=scope.grace,
        queues=None if queues is None else dict(queues),
        history=history,
    )
    ids = None if subjects is None else await _ids(databases, subjects)
    await asyncio.gather(
        _billing(databases, facts, ids),
        _letters(databases, facts, ids, scope),
        _users(databases, facts, ids),
        _events(databases, facts, ids, scope),
        _leftovers(databases, facts, scope),
        _answers(databases, facts, scope),
    )
    return facts


Ids = Mapping[str, Collection[UUID]] | None


async def _ids(databases: Databases, subjects: Subjects) -> dict[str, list[UUID]]:
    """The subjects, and the orders that letters and transfers among them are about."""
    found: dict[str, set[UUID]] = defaultdict(set, {k: set(v) for k, v in subjects.ids.items()})
    for kind, service, table in (
        ("letter", "notifications", "notifications"),
        ("transfer", "billing", "transfers"),
    ):
        sql = ORDERS_OF.format(table=table)
        found["order"].update(await databases[service].column(sql, [*found[kind]]))
    return {kind: [*ids] for kind, ids in found.items()}


def _of(ids: Ids, kind: str) -> list[UUID] | None:
    return None if ids is None else [*ids.get(kind, ())]


async def _billing(databases: Databases, facts: Facts, ids: Ids) -> None:
    billing, orders = databases["billing"], _of(ids, "order")
    # What follows is read first: what it follows from was there before it.
    facts.totals = _one(Totals, await billing.row(TOTALS))
    facts.accounts += _all(Account, await billing.rows(ACCOUNTS, _of(ids, "account")))
    facts.transfers += _all(
        Transfer, await billing.rows(TRANSFERS, _of(ids, "transfer"), orders or [])
    )
    facts.charges += _all(Charge, await billing.rows(CHARGES, orders))
    facts.orders += _all(Order, await databases["orders"].rows(ORDERS, orders))


async def _letters(databases: Databases, facts: Facts, ids: Ids, scope: Scope) -> None:
    notifications = databases["notifications"]
    letters = await notifications.rows(
        LETTERS, _of(ids, "letter"), _of(ids, "order") or [], scope.remembered
    )
    facts.letters += _all(Letter, letters)
    [facts.open_letters] = await notifications.column(OPEN_LETTERS)


async def _users(databases: Databases, facts: Facts, ids: Ids) -> None:
    users = _of(ids, "user")
    for service, table in COPIES.items():
        rows = await databases[service].rows(USERS.format(table=table), users)
        facts.copies[service] = _all(User, rows)
    facts.users += _all(User, await databases["users"].rows(USERS.format(table="users"), users))
    facts.changed |= dict(await databases["users"].rows(CHANGED, users))
    for service in SERVICES:
        keys = await databases[service].rows(KEYS)
        facts.keys[service] = frozenset((row["key_id"], row["x"]) for row in keys)


async def _events(databases: Databases, facts: Facts, ids: Ids, scope: Scope) -> None:
    received: dict[UUID, set[str]] = defaultdict(set)
    count: dict[str, int] = {}
    for service in SERVICES:
        [count[service]] = await databases[service].column(COUNT_HEARD, scope.remembered)
    since = facts.now - REMEMBERED - timedelta(minutes=1)
    [users] = await databases["users"].column(TOLD_OF_USERS, since)
    [orders] = await databases["orders"].column(TOLD_OF_ORDERS, since)
    [payments] = await databases["billing"].column(TOLD_OF_PAYMENTS, since)
    told = {"users": 0, "billing": users + orders} | dict.fromkeys(
        ("orders", "notifications"), users + payments
    )
    facts.counted |= {service: (count[service], most) for service, most in told.items()}
    for service in SERVICES:
        for id in await databases[service].column(PROCESSED, _of(ids, "event")):
            received[id].add(service)
    facts.received |= {id: frozenset(services) for id, services in received.items()}


async def _leftovers(databases: Databases, facts: Facts, scope: Scope) -> None:
    for service in SERVICES:
        facts.outboxes[service] = _one(Waiting, await databases[service].row(OUTBOX, scope.grace))


async def _answers(databases: Databases, facts: Facts, scope: Scope) -> None:
    if facts.history is None:
        return
    attempts = facts.history.attempts
    unnamed = [a.correlation_id for a in attempts if a.order_id is None and a.correlation_id]
    facts.flows.update(await databases["notifications"].rows(FLOWS, unnamed))
    named = [*{attempt.order_id for attempt in attempts if attempt.order_id is not None}]
    orders = databases["orders"]
    facts.accepted += _all(Order, await orders.rows(ORDERS, named))
    facts.strangers += _all(Order, await orders.rows(STRANGERS, scope.since, named))


def _one(kind: type[Any], row: Any) -> Any:
    return kind(**row)


def _all(kind: type[Any], rows: Iterable[Any]) -> list[Any]:
    return [kind(**row) for row in rows]
