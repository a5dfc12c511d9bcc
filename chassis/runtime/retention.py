"""Retention: every service purges its inbox, its idempotency keys and its event log of what is old.

An inbox row outlives every redelivery: a consumer may hold a message for 30 days, and events may be published again
from the event log, which keeps them for seven by default. Business keys stop later duplicates: one payment per order,
one refund per payment, one notification per order and kind. All other growing tables are business records and are kept.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import asyncpg
import structlog
from prometheus_client import Counter, Gauge

from chassis.database.errors import CONNECTION_LOST
from chassis.database.group_commit import GroupCommitter
from chassis.database.transaction import Pool, Transaction

log = structlog.get_logger(__name__)

INBOX_AGE: Final = timedelta(days=35)
KEYS_AGE: Final = timedelta(days=7)
"""The least time for which an Idempotency-Key gives the stored response."""

PURGE_SECONDS: Final = 3600.0
"""The interval between purges."""

BATCH_ROWS: Final = 5_000
"""The most rows of one table in one transaction: a few milliseconds, so that other transactions do not wait."""

PAUSE_SECONDS: Final = 0.25
"""The pause between two such transactions, which limits the rate to 20,000 rows a second."""

PURGED = Counter(
    "chorus_purged_total", "Rows removed when they expired; partitions of the event log.", ["table"]
)

POSTPONED = Gauge(
    "chorus_event_log_postponed",
    "1 if partitions of the event log could not be made or removed at the last attempt.",
)

_INBOX: Final = """
DELETE FROM inbox WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM inbox WHERE received_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_KEYS: Final = """
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_keys WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
TABLES: Final = {"inbox": (_INBOX, INBOX_AGE), "idempotency_keys": (_KEYS, KEYS_AGE)}


async def purge(tx: Transaction, tables: Sequence[str]) -> list[int]:
    """Remove up to BATCH_ROWS old rows of each table; returns the number of removed rows of each."""
    removed = []
    for table in tables:
        sql, age = TABLES[table]
        status = await tx.execute(sql, tx.now - age, BATCH_ROWS)
        removed.append(int(status.split()[-1]))
    return removed


async def keep_event_log(pool: Pool, days: int) -> None:
    """Make the partitions of the next days and remove what is older than `days` and published, as the tables' owner.

    Each step waits half a second at most for transactions that use the log: others wait behind it. What fails is
    logged and left to the next time, which comes long before a partition is needed.
    """
    try:
        await pool.fetchval("SELECT make_event_log_partitions()")
        dropped = await pool.fetchval("SELECT drop_event_log_partitions($1)", days)
        PURGED.labels("event_log").inc(dropped)
        purge_rest = "SELECT purge_event_log_rest($1, $2)"
        while rows := await pool.fetchval(purge_rest, days, BATCH_ROWS):
            PURGED.labels("event_log_rest").inc(rows)
            await asyncio.sleep(PAUSE_SECONDS)
        POSTPONED.set(0)
    except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
        POSTPONED.set(1)
        log.warning("retention.postponed", table="event_log", error=repr(error))


async def purge_periodically(pool: Pool, event_log_days: int) -> None:
    """Remove old rows in small batches for as long as the process runs. Replicas share the work."""
    committer: GroupCommitter[str, int] = GroupCommitter(
        pool, purge, name="retention.purge", on_commit=()
    )
    while True:
        for table in TABLES:
            total = 0
            while removed := await committer.submit(table):
                total += removed
                PURGED.labels(table).inc(removed)
                await asyncio.sleep(PAUSE_SECONDS)
            if total:
                log.info("retention.purged", table=table, rows=total)
        await asyncio.sleep(PURGE_SECONDS)
        await keep_event_log(pool, event_log_days)
