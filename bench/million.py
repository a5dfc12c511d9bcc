"""A million settled orders in the tables, against none: the same load on two installations of Chorus, in turns.

The rows are inserted by SQL, as they would be after a million orders of the same customers: orders, charges, transfers,
sent notifications, and inboxes. The ledger is balanced, so the usual audit applies.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

import asyncpg

from apps.billing.models import REVENUE
from bench.contestants import CHORUS
from bench.figures import Spread
from bench.measure import Measured
from bench.plan import Bench
from bench.tables import Outcome

ORDERS: Final = 1_000_000
FULL: Final = "million"
"""The installation with them."""

EMPTY: Final = "nothing"
"""The installation without them."""

PRICE: Final = 100
FIRST: Final = 1_700_000_000_000
"""When the first of these orders was placed, in milliseconds since 1970. One follows every millisecond."""

HELPERS: Final = f"""
CREATE FUNCTION pg_temp.made(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex({FIRST} + n), 12, '0') || kind || lpad(to_hex(n), 16, '0'))::uuid
$$;
CREATE FUNCTION pg_temp.at(n bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT to_timestamp(({FIRST} + n) / 1000.0)
$$;
"""
"""Functions for ids in the order of UUIDv7, and for times, by number: the same in every database."""

PLACED: Final = """
INSERT INTO orders (id, user_id, total, currency, status, placed_at, settled_at, version)
SELECT pg_temp.made('7001', n), ($1::uuid[])[n % cardinality($1) + 1], $2, 'EUR', 'paid', pg_temp.at(n),
    pg_temp.at(n), 2
FROM generate_series(0, $3::bigint - 1) AS n
"""
DECIDED: Final = """
WITH wanted AS (
    SELECT n, a.id, a.user_id, a.balance - (n / cardinality($1) + 1) * $2 AS balance,
        a.version + n / cardinality($1) + 1 AS version
    FROM generate_series(0, $3::bigint - 1) AS n JOIN accounts a ON a.user_id = ($1::uuid[])[n % cardinality($1) + 1]
), charged AS (
    INSERT INTO charges (order_id, payment_id, user_id, account_id, amount, status, balance, account_version,
                         created_at)
    SELECT pg_temp.made('7001', n), pg_temp.made('7002', n), user_id, id, $2, 'paid', balance, version, pg_temp.at(n)
    FROM wanted
), moved AS (
    INSERT INTO transfers (id, kind, debit_account, credit_account, amount, account_id, account_version, balance,
                           order_id, created_at)
    SELECT pg_temp.made('7002', n), 'payment', id, $4::uuid, $2, id, version, balance, pg_temp.made('7001', n),
        pg_temp.at(n)
    FROM wanted
)
UPDATE accounts a SET balance = last.balance, version = last.version
FROM (SELECT id, min(balance) AS balance, max(version) AS version FROM wanted GROUP BY id) AS last WHERE last.id = a.id
"""
WRITTEN: Final = """
INSERT INTO notifications (id, user_id, order_id, kind, amount, balance, currency, address, locale, subject, body,
                           status, attempts, created_at, sent_at, correlation_id, causation_id)
SELECT pg_temp.made('7003', n), r.id, pg_temp.made('7001', n), 'joy', $2, 0, 'EUR', r.email, 'en',
    'Your order is paid: 1.00 EUR',
    'Hello ' || r.name || E',\\n\\ngood news: your order is paid. Thank you!\\n\\nOrder: ' || pg_temp.made('7001', n)
        || E'\\nPaid: 1.00 EUR\\nYour balance: 0.00 EUR\\n\\nWe hope it brings you joy.\\nYours, Chorus',
    'sent', 0, pg_temp.at(n), pg_temp.at(n), pg_temp.made('7004', n)::text, pg_temp.made('7005', n)
FROM generate_series(0, $3::bigint - 1) AS n JOIN recipients r ON r.id = ($1::uuid[])[n % cardinality($1) + 1]
"""
PROCESSED: Final = """
INSERT INTO inbox SELECT pg_temp.made('7005', n * 64), 'orders', 1, now()
FROM generate_series(0, $1::bigint - 1) AS n
"""


async def fill(
    databases: Mapping[str, asyncpg.Connection], user_ids: list[str], orders: int
) -> None:
    """Insert so many settled orders of these users, as if they had been placed one by one."""
    for service in ("orders", "billing", "notifications"):
        await databases[service].execute(HELPERS)
        await databases[service].execute(PROCESSED, orders)
    await databases["orders"].execute(PLACED, user_ids, PRICE, orders)
    await databases["billing"].execute(DECIDED, user_ids, PRICE, orders, REVENUE)
    await databases["notifications"].execute(WRITTEN, user_ids, PRICE, orders)


async def million(bench: Bench) -> Outcome:
    """The part."""
    found: dict[str, list[Measured]] = {EMPTY: [], FULL: []}
    with bench.recording_failures(CHORUS):
        async with bench.running(CHORUS, name=FULL) as processes:
            customers = await bench.customers(processes)
            await bench.warm(processes)
            async with processes.installation.databases() as databases:
                await fill(databases, [customer.id for customer in customers], ORDERS)
        bench.report(f"{ORDERS:,} orders are inserted")
        for _ in range(bench.plan.rounds):
            for name, measured in found.items():
                async with bench.running(CHORUS, name=name) as processes:
                    orders = int(await bench.warm(processes) * bench.plan.seconds)
                    measured.append((await bench.order(processes, orders))[0])
                bench.report(f"{name}: {measured[-1].settled_rate:,.0f} orders/s")
    outcome = Outcome(
        "A million orders", data={n: [asdict(m) for m in ms] for n, ms in found.items()}
    )
    if found[FULL]:
        outcome.measured["million"] = _ratio(found[EMPTY], found[FULL]).median
    return outcome


def _ratio(without: list[Measured], full: list[Measured]) -> Spread:
    pairs = zip(without, full, strict=False)
    return Spread.of(many.settled_rate / few.settled_rate for few, many in pairs)
