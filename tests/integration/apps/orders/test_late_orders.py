"""Measuring late orders reads few rows, regardless of the number of orders and the age of pending ones."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from apps.orders import late_orders
from chassis.database.pool import Database
from chassis.database.transaction import Pool
from tests.support.fixtures import Install
from tests.support.opened import opened

MANY: Final = 20_000
AN_HOUR_OLD: Final = f"""
INSERT INTO orders (id, user_id, total, currency, status, placed_at, version)
SELECT lpad(to_hex(n), 32, '0')::uuid, gen_random_uuid(), 100, 'EUR', CASE WHEN n > $1 THEN 'paid' ELSE 'pending' END,
    now() - interval '1 hour', 1 FROM generate_series(1, {MANY}) AS n
"""
SETTLE_THE_OLDEST: Final = """
UPDATE orders SET status = 'paid' WHERE id = (SELECT id FROM orders WHERE status = 'pending' ORDER BY id LIMIT 1)
"""
READ: Final = (
    "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'orders'"
)


@dataclass
class Orders:
    """The orders of a service, and its measurement of late ones."""

    owner: Pool
    database: Database
    late: late_orders.LateOrders

    async def change(self, sql: str, *values: Any) -> None:
        """Change the orders by SQL, not through the service."""
        await self.owner.execute(sql, *values)

    async def measure(self) -> tuple[int, int]:
        """Measure: the number of late orders, and the rows read for it."""
        before = await self._rows_read()
        await self.late.measure()
        return int(late_orders.LATE._value.get()), await self._rows_read() - before

    async def _rows_read(self) -> int:
        await self.database.pool.execute("SELECT pg_stat_force_next_flush()")
        read: int = await self.owner.fetchval(READ)
        return read


@pytest.fixture(scope="module")
async def installed(install_chorus: Install) -> AsyncIterator[Orders]:
    chorus = await install_chorus("late", "orders")
    async with opened(chorus, "orders") as (database, owner):
        yield Orders(owner, database, late_orders.LateOrders(database.pool))


@pytest.fixture
async def orders(installed: Orders) -> Orders:
    await installed.change("TRUNCATE orders")
    installed.late = late_orders.LateOrders(installed.database.pool)
    return installed


async def test_an_undecided_order_is_counted_without_reading_later_ones(
    orders: Orders,
) -> None:
    """An order whose OrderPlaced is lost stays pending."""
    await orders.change(AN_HOUR_OLD, 1)
    count, rows = await orders.measure()
    assert count == 1
    assert rows >= MANY  # the first measurement reads all
    count, rows = await orders.measure()
    assert count == 1
    assert rows < 10


async def test_late_orders_beyond_the_limit_are_counted_once_there_is_room(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_orders, "LIMIT", 2)
    await orders.change(AN_HOUR_OLD, 3)
    await orders.measure()
    await orders.measure()
    for left in (2, 1, 0):
        await orders.change(SETTLE_THE_OLDEST)
        assert (await orders.measure())[0] == left
