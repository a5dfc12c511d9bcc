"""PostgreSQL finds the rows of a set by key, even with a plan made while the table was empty."""

from uuid_utils.compat import uuid7

from apps.orders.models import Order
from chassis.database.pool import Database
from chassis.database.transaction import transaction
from chassis.messaging import relay
from events.orders import OrderPaid
from tests.support.builders import an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.opened import opened

ROWS = 20_000
FILLED = f"""
INSERT INTO orders (id, user_id, total, currency, status, placed_at, version)
SELECT gen_random_uuid(), gen_random_uuid(), 100, 'EUR', 'pending', now(), 1 FROM generate_series(1, {ROWS})
"""
READ = "SELECT seq_tup_read AS by_scan, idx_tup_fetch AS by_key FROM pg_stat_user_tables WHERE relname = 'orders'"
ROUNDS = 10
"""PostgreSQL plans a prepared statement anew five times before it may keep a plan."""


async def test_a_plan_made_on_an_empty_table_reads_few_rows_of_a_full_one(
    install_chorus: Install,
) -> None:
    chorus = await install_chorus("plans", "orders")
    async with opened(chorus, "orders") as (database, owner):
        known = [uuid7() for _ in range(50)]

        async def rounds() -> None:
            for _ in range(ROUNDS):
                async with transaction(database.pool) as tx:
                    found = list((await tx.lock(Order, known)).values())
                    nobody = Order.place(uuid7(), uuid7(), 100, tx.now)
                    await tx.update(found or [nobody], "status", "version")

        async def all_is_counted() -> None:
            await owner.execute("SELECT pg_stat_clear_snapshot()")
            assert (await owner.fetchrow(READ))["by_key"] >= ROUNDS * len(known)

        await rounds()
        await owner.execute(FILLED)
        known = [row["id"] for row in await owner.fetch("SELECT id FROM orders LIMIT 50")]
        await rounds()
        await eventually(all_is_counted)
        # The 50 above were read by a scan; one of all orders would be far more.
        assert (await owner.fetchrow(READ))["by_scan"] < ROWS


async def test_a_relay_reads_at_most_its_limit_after_an_analysis_of_the_empty_table(
    install_chorus: Install,
) -> None:
    chorus = await install_chorus("takes", "orders")
    async with opened(chorus, "orders") as (database, owner):
        # The effect of autovacuum on an outbox that is empty at each run.
        await _wait_in_outbox(database, 100)
        await owner.execute("DELETE FROM outbox")
        await owner.execute("VACUUM ANALYZE outbox")
        for _ in range(ROUNDS):
            async with transaction(database.pool) as tx:
                assert await relay.take(tx, 10) == []
        await _wait_in_outbox(database, 1500)
        async with transaction(database.pool) as tx:
            taken = await relay.take(tx, 100)
        assert len(taken) == 100
        assert await owner.fetchval("SELECT count(*) FROM outbox") == 1400
        assert await owner.fetchval("SELECT id FROM outbox ORDER BY id LIMIT 1") > max(
            row.id for row in taken
        )


async def _wait_in_outbox(database: Database, count: int) -> None:
    async with transaction(database.pool) as tx:
        tx.outbox += [outbox_row(OrderPaid(order=an_order())) for _ in range(count)]
