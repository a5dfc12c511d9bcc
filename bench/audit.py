"""Whether everything that was measured is also right: orders, debits, letters and balances agree, to the last one.

A run that fails here has no figures, only findings.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from bench.load import Sent

SHOWN: Final = 3
"""Examples of each finding."""

ORDERS: Final = "SELECT id::text, status, total FROM orders WHERE id >= $1"
CHARGES: Final = "SELECT order_id::text, status, amount FROM charges WHERE order_id >= $1"
PAYMENTS: Final = (
    "SELECT order_id::text, amount FROM transfers WHERE kind = 'payment' AND order_id >= $1"
)
LETTERS: Final = "SELECT order_id::text, kind FROM letters WHERE order_id >= $1"
ACCOUNTS: Final = """
WITH ledger AS (
    SELECT account_id, sum(amount) AS entries,
        coalesce(sum(amount) FILTER (WHERE kind = 'deposit'), 0) AS deposits,
        coalesce(sum(-amount) FILTER (WHERE kind = 'payment'), 0) AS payments
    FROM ledger_entries GROUP BY account_id
)
SELECT a.id::text, a.balance, coalesce(l.entries, 0)::bigint AS entries,
    (coalesce(l.deposits, 0) - coalesce(l.payments, 0))::bigint AS rest
FROM accounts a LEFT JOIN ledger l ON l.account_id = a.id
"""

LETTER_OF: Final = {"paid": "joy", "rejected": "sorrow"}

Rows = Sequence[tuple[Any, ...]]


class FailedAuditError(Exception):
    """What was measured is not right. The arguments are the findings."""


@dataclass(frozen=True)
class Evidence:
    """What the databases say of the orders of one run, and of all accounts."""

    orders: Rows
    """Id, status and total."""
    charges: Rows
    """Id of the order, status and amount."""
    payments: Rows
    """Id of the order and amount, from the ledger."""
    letters: Rows
    """Id of the order and kind."""
    accounts: Rows
    """Id, balance, sum of its entries in the ledger, deposits less payments."""


async def collect(databases: Mapping[str, asyncpg.Connection], since: UUID) -> Evidence:
    """The evidence about the orders that have been placed since the moment of an id."""

    async def rows(service: str, query: str, *values: Any) -> Rows:
        return [tuple(record) for record in await databases[service].fetch(query, *values)]

    return Evidence(
        orders=await rows("orders", ORDERS, since),
        charges=await rows("billing", CHARGES, since),
        payments=await rows("billing", PAYMENTS, since),
        letters=await rows("notifications", LETTERS, since),
        accounts=await rows("billing", ACCOUNTS),
    )


def findings(evidence: Evidence, sent: Sent) -> list[str]:
    """What is wrong; nothing, if all is well."""
    return [
        *_about_doors(evidence, sent),
        *_about_money(evidence),
        *_about_letters(evidence),
        *_about_balances(evidence),
    ]


def _about_doors(evidence: Evidence, sent: Sent) -> Iterator[str]:
    """What was accepted exists; what exists was accepted, unless its answer was lost or was a refusal."""
    accepted, stored = set(sent.order_ids), {id for id, _, _ in evidence.orders}
    if len(accepted) != len(sent.order_ids):
        yield "two orders were accepted under one id"
    yield from _some("orders were accepted and are not there", accepted - stored)
    others = sent.unanswered + sum(sent.statuses.values()) - sent.accepted
    if len(stored - accepted) > others:
        yield from _some("orders are there that nobody placed", stored - accepted)


def _about_money(evidence: Evidence) -> Iterator[str]:
    """Every order is decided once, and debited once if it is paid, with its total."""
    charges = {id: (status, amount) for id, status, amount in evidence.charges}
    decided = {id: (status, total) for id, status, total in evidence.orders}
    yield from _some(
        "orders are still pending", (i for i, (status, _) in decided.items() if status == "pending")
    )
    yield from _some(
        "orders and what billing decided differ",
        (id for id in decided.keys() | charges.keys() if decided.get(id) != charges.get(id)),
    )
    payments = Counter(id for id, _ in evidence.payments)
    yield from _some("orders were debited twice", (id for id, n in payments.items() if n > 1))
    paid = {id: total for id, (status, total) in decided.items() if status == "paid"}
    debited: dict[str, int] = dict(evidence.payments)
    yield from _some(
        "paid orders and debits differ",
        (id for id in paid.keys() | debited.keys() if paid.get(id) != debited.get(id)),
    )


def _about_letters(evidence: Evidence) -> Iterator[str]:
    """One letter for each outcome, of joy or of sorrow."""
    letters = Counter(evidence.letters)
    wanted = {(id, LETTER_OF.get(status, status)) for id, status, _ in evidence.orders}
    yield from _some("letters are missing", (id for id, _ in wanted - letters.keys()))
    yield from _some("letters are about nothing", (id for id, _ in letters.keys() - wanted))
    yield from _some("letters were written twice", (id for (id, _), n in letters.items() if n > 1))


def _about_balances(evidence: Evidence) -> Iterator[str]:
    """Every balance is the sum of its ledger, and what was paid in less what was paid for orders."""
    yield from _some(
        "balances differ from their ledgers",
        (id for id, balance, entries, _ in evidence.accounts if balance != entries),
    )
    yield from _some(
        "balances are not deposits less payments",
        (id for id, balance, _, rest in evidence.accounts if balance != rest),
    )


def _some(what: str, ids: Iterator[str] | set[str]) -> Iterator[str]:
    found = sorted(ids)
    if found:
        yield f"{len(found)} {what}, such as {', '.join(found[:SHOWN])}"
