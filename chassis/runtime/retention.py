"""What every service forgets: rows that only guard against what can no longer happen.

An inbox row outlives every redelivery: a queue lets a consumer keep a message for 30 days, and the journal, from which
events may be told again, keeps seven. Whatever comes later still meets the business keys: one payment per order, one
refund per payment, one letter per order and kind. Everything else that grows is the business itself, and stays.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import Counter

from chassis.database.group_commit import GroupCommitter
from chassis.database.transaction import Transaction

if TYPE_CHECKING:
    from chassis.runtime.service import Service

log = structlog.get_logger(__name__)

INBOX_AGE: Final = timedelta(days=35)
KEYS_AGE: Final = timedelta(days=7)
"""How long the same Idempotency-Key gives the same answer again, at least."""

FORGET_SECONDS: Final = 3600.0
"""How often old rows are looked for."""

AT_A_TIME: Final = 5_000
"""Rows of one table in one transaction: a few milliseconds of work, so that nobody waits for it."""

PAUSE_SECONDS: Final = 0.25
"""Between two such transactions: 20,000 rows a second at most, however much has become old at once."""

PURGED = Counter("chorus_purged_total", "Rows removed because of their age.", ["table"])

_INBOX: Final = """
DELETE FROM inbox WHERE event_id = ANY(ARRAY(
    SELECT event_id FROM inbox WHERE received_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
_KEYS: Final = """
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_keys WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
"""
TABLES: Final = {"inbox": (_INBOX, INBOX_AGE), "idempotency_keys": (_KEYS, KEYS_AGE)}


async def purge(tx: Transaction, tables: Sequence[str]) -> list[int]:
    """Remove the oldest rows of these tables, up to AT_A_TIME of each; returns how many were removed of each."""
    removed = []
    for table in tables:
        sql, age = TABLES[table]
        status = await tx.execute(sql, tx.now - age, AT_A_TIME)
        removed.append(int(status.split()[-1]))
    return removed


async def keep_purging(service: "Service") -> None:
    """Remove old rows, a little at a time, for as long as the process runs. Replicas share the work."""
    committer: GroupCommitter[str, int] = GroupCommitter(
        service.database.pool, purge, name=f"{service.name}.forget", published=service.relay.wake
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
        await asyncio.sleep(FORGET_SECONDS)
