"""With a million rows in the messaging tables, the statements that run for each event read only a few pages."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from uuid_utils.compat import uuid7

from chassis.database.pool import Database
from chassis.database.transaction import Pool
from chassis.messaging.consumer import KNOWN
from chassis.messaging.relay import TAKE, TAKE_LIMIT
from chassis.runtime import retention
from tests.support.builders import now
from tests.support.fixtures import Install
from tests.support.opened import opened

MILLION: Final = 1_000_000
FEW: Final = 3 * TAKE_LIMIT
WAITING: Final = """
WITH logged AS (
    INSERT INTO event_log
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'orders', 'order-placed.v1', now() - random() * interval '1 hour', 1, '{}'
    FROM generate_series($1::int, $2::int) AS n RETURNING id
)
INSERT INTO outbox (id) SELECT id FROM logged
"""
PROCESSED: Final = """
INSERT INTO inbox SELECT event_group(gen_random_uuid()), 'orders', 1, now() FROM generate_series(1, $1::int)
"""
ASKED: Final = """
INSERT INTO idempotency_keys (user_id, key, fingerprint, created_at)
SELECT gen_random_uuid(), 'key', '', now() FROM generate_series(1, $1::int)
"""


class Tables:
    """The tables of one service, and the pages that its statements read."""

    def __init__(self, owner: Pool, database: Database) -> None:
        self.owner = owner
        self._database = database

    async def pages(self, sql: str, *values: Any) -> int:
        """The number of pages that a statement reads. Its changes are rolled back."""
        async with self._database.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            with_reason = await connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *values
            )
            await transaction.rollback()
        plan = json.loads(with_reason)[0]["Plan"]
        touched: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        return touched


@pytest.fixture(scope="module")
async def tables(install_chorus: Install) -> AsyncIterator[Tables]:
    chorus = await install_chorus("millions", "orders")
    async with opened(chorus, "orders", size=2) as (database, owner):
        yield Tables(owner, database)


async def test_publishing_reads_few_pages_of_a_large_outbox(
    tables: Tables,
) -> None:
    await tables.owner.execute(WAITING, 1, FEW)
    of_few = await tables.pages(TAKE, TAKE_LIMIT)
    await tables.owner.execute(WAITING, FEW + 1, MILLION, timeout=120)
    of_a_million = await tables.pages(TAKE, TAKE_LIMIT)
    assert of_few <= of_a_million < 2 * of_few


async def test_purging_and_deduplication_read_few_pages_of_large_tables(
    tables: Tables,
) -> None:
    await asyncio.gather(
        tables.owner.execute(PROCESSED, MILLION, timeout=120),
        tables.owner.execute(ASKED, MILLION, timeout=120),
    )
    for table in retention.TABLES:
        await tables.owner.execute(f"VACUUM {table}", timeout=120)  # as autovacuum does
    for table, (sql, age) in retention.TABLES.items():
        whole = await tables.owner.fetchval("SELECT pg_relation_size($1::regclass) / 8192", table)
        assert await tables.pages(sql, now() - age, retention.BATCH_ROWS) < whole / 20, table
    whether_known = await tables.pages(KNOWN, "orders", [uuid7() for _ in range(64)])
    assert whether_known < 64 * 20
