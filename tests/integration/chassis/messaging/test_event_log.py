"""The event log keeps what was published: in few rows, in partitions by day, for a set time."""

from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import groupby
from uuid import UUID

import asyncpg
import pytest

from chassis.database.pool import Database
from chassis.database.transaction import Pool, transaction
from chassis.messaging import relay
from chassis.messaging.outbox import GROUP
from chassis.runtime.retention import keep_event_log
from events.base import Causation, least_id
from events.orders import OrderCancelled, OrderPlaced
from tests.support.builders import an_order, now
from tests.support.fixtures import Install
from tests.support.opened import opened
from tests.support.relay_harness import placed

INSERT = "INSERT INTO event_log VALUES ($1, 'orders', 'order-placed.v1', $2, 1, '{}')"
PARTITIONS = """
SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'event_log'::regclass ORDER BY 1
"""


@pytest.fixture
async def log(install_chorus: Install) -> AsyncIterator[tuple[Database, Pool]]:
    chorus = await install_chorus("event_log", "orders")
    async with opened(chorus, "orders") as (database, owner):
        yield database, owner
        await owner.execute("DELETE FROM outbox; DELETE FROM journal_outbox; DELETE FROM event_log")


def partition(days_ago: int) -> str:
    return f"event_log_{now() - timedelta(days=days_ago):%Y%m%d}"


async def exists(owner: Pool, table: str) -> bool:
    return bool(await owner.fetchval("SELECT to_regclass($1) IS NOT NULL", table))


async def test_events_of_one_transaction_and_routing_key_share_rows_of_up_to_64(
    log: tuple[Database, Pool],
) -> None:
    database, owner = log
    async with transaction(database.pool) as tx:
        ids = [tx.publish(event, Causation("flow")) for event in placed(150)]
        other = tx.publish(OrderCancelled(order=an_order(status="cancelled")), Causation("flow"))
    assert ids == sorted(ids)
    assert [len(list(group)) for _, group in groupby(ids, lambda id: id.int // GROUP)] == [
        64,
        64,
        22,
    ]
    rows = await owner.fetch("SELECT id, events FROM event_log ORDER BY routing_key, id")
    assert [row["events"] for row in rows] == [1, 64, 64, 22]
    assert [row["id"] for row in rows] == [other, ids[0], ids[64], ids[128]]
    assert [row["id"] for row in await owner.fetch("SELECT id FROM outbox ORDER BY id")] == sorted(
        row["id"] for row in rows
    )


async def test_a_published_event_stays_in_the_log(log: tuple[Database, Pool]) -> None:
    database, owner = log
    async with transaction(database.pool) as tx:
        id = tx.publish(OrderPlaced(order=an_order()), Causation("flow"))
    before = await owner.fetchrow("SELECT * FROM event_log")
    async with transaction(database.pool) as tx:
        [taken] = await relay.take(tx, 10)
    assert taken.id == id
    assert await owner.fetchval("SELECT count(*) FROM outbox") == 0
    assert await owner.fetchrow("SELECT * FROM event_log") == before


async def test_an_id_without_a_row_is_counted_and_delays_nothing(
    log: tuple[Database, Pool],
) -> None:
    database, owner = log
    async with transaction(database.pool) as tx:
        id = tx.publish(OrderPlaced(order=an_order()), Causation("flow"))
    await owner.execute("INSERT INTO outbox (id) VALUES ($1)", UUID(int=1))
    before = relay.FAILED.labels("outbox", relay.ROW_MISSING)._value.get()
    async with transaction(database.pool) as tx:
        assert [row.id for row in await relay.take(tx, 10)] == [id]
    assert relay.FAILED.labels("outbox", relay.ROW_MISSING)._value.get() == before + 1
    assert await owner.fetchval("SELECT count(*) FROM outbox") == 0


async def test_a_service_cannot_change_or_remove_what_it_has_published(
    log: tuple[Database, Pool],
) -> None:
    database, _ = log
    for sql in (
        "UPDATE event_log SET routing_key = ''",
        "DELETE FROM event_log",
        "TRUNCATE event_log",
        f"DROP TABLE {partition(0)}",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.pool.execute(sql)
    for sql in ("SELECT drop_event_log_partitions(6)", "SELECT purge_event_log_rest(6, 1)"):
        with pytest.raises(asyncpg.RaiseError, match="a week at least"):
            await database.pool.execute(sql)


async def test_each_day_has_a_partition_before_it_begins(log: tuple[Database, Pool]) -> None:
    database, owner = log
    await owner.execute(f"DROP TABLE {partition(-1)}, {partition(-2)}")
    await keep_event_log(database.pool, 7)
    for days_ahead in range(3):
        assert await exists(owner, partition(-days_ahead))
    await owner.execute(INSERT, least_id(now() + timedelta(days=1)), now())
    assert await owner.fetchval(f"SELECT count(*) FROM {partition(-1)}") == 1


async def test_days_beyond_the_retention_are_dropped_unless_they_are_unpublished(
    log: tuple[Database, Pool],
) -> None:
    database, owner = log
    ids: dict[int, UUID] = {}
    for days_ago in (7, 8, 30):
        id = ids[days_ago] = least_id(now() - timedelta(days=days_ago))
        day = (now() - timedelta(days=days_ago)).replace(hour=0, minute=0, second=0, microsecond=0)
        await owner.execute(
            f"CREATE TABLE {partition(days_ago)} PARTITION OF event_log"
            f" FOR VALUES FROM ('{least_id(day)}') TO ('{least_id(day + timedelta(days=1))}')"
        )
        await owner.execute(INSERT, id, now())
    long_ago = now() - timedelta(days=90)
    await owner.execute(INSERT, least_id(long_ago), long_ago)  # in no day's partition
    for outbox in ("outbox", "journal_outbox"):
        for id in (ids[30], least_id(long_ago)):
            await owner.execute(f"INSERT INTO {outbox} (id) VALUES ($1)", id)
        await keep_event_log(database.pool, 7)
        assert await exists(owner, partition(8)), "an older event waits to be published"
        assert await owner.fetchval("SELECT count(*) FROM event_log_rest") == 1
        await owner.execute(f"DELETE FROM {outbox}")
    await keep_event_log(database.pool, 7)
    assert [await exists(owner, partition(days_ago)) for days_ago in (7, 8, 30)] == [
        True, False, False,
    ]  # fmt: skip
    assert await owner.fetchval("SELECT count(*) FROM event_log_rest") == 0
    await owner.execute(f"DROP TABLE {partition(7)}")


async def test_a_transaction_that_uses_the_log_postpones_its_retention(
    log: tuple[Database, Pool],
) -> None:
    database, owner = log
    await owner.execute(f"DROP TABLE {partition(-2)}")
    async with owner.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE event_log IN ACCESS EXCLUSIVE MODE")
        await keep_event_log(database.pool, 7)
    assert not await exists(owner, partition(-2))
    await keep_event_log(database.pool, 7)
    assert await exists(owner, partition(-2))


async def test_events_of_a_clock_far_ahead_are_kept_and_published(
    log: tuple[Database, Pool],
) -> None:
    database, _ = log
    id = least_id(now() + timedelta(days=40))
    await database.pool.execute(INSERT, id, now())
    await database.pool.execute("INSERT INTO outbox (id) VALUES ($1)", id)
    await keep_event_log(database.pool, 7)
    async with transaction(database.pool) as tx:
        assert [row.id for row in await relay.take(tx, 10)] == [id]
