"""A fifth service is added to a Chorus that has had 10,000 orders: `chorus rebuild` gives it their history."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from apps.orders import use_cases as orders
from apps.orders.models import Order
from apps.users import use_cases as users
from apps.users.models import Profile, User
from chassis.database.transaction import Pool, Transaction, transaction
from events.base import Causation, Envelope
from tests.support.builders import now, payment_rejected, payment_succeeded
from tests.support.eventually import eventually
from tests.support.fifth_service import Extended, release
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tests.support.processes import Processes

ORDERS: Final = 10_000
BATCH: Final = 1_000
CAUSE: Final = Causation("test")


@pytest.fixture
async def extended(install_chorus: Install, tmp_path: Path) -> Extended:
    return release(await install_chorus("history"), tmp_path / "release")


@dataclass(frozen=True)
class Past:
    """Users and orders as the services' own use cases make them, without the HTTP API."""

    users: Pool
    orders: Pool

    async def registers(self, count: int) -> list[User]:
        """New users."""
        wanted = [
            users.RegisterUser(
                Profile(f"{os.urandom(8).hex()}@example.org", "Ada", "en"), "-", CAUSE
            )
            for _ in range(count)
        ]
        async with transaction(self.users) as tx:
            found = await users.register_users(tx, wanted)
        return [one for one in found if isinstance(one, User)]

    async def places(self, buyers: Sequence[User]) -> None:
        """An order of each; of ten, six are paid, three rejected, one stays pending."""
        commands = [orders.PlaceOrder(one.id, 100 + n, CAUSE) for n, one in enumerate(buyers)]
        async with transaction(self.orders) as tx:
            placed = await orders.place_orders(tx, commands)
        paid = [_received(tx, payment_succeeded, one) for n, one in enumerate(placed) if n % 10 < 6]
        refused = [
            _received(tx, payment_rejected, one) for n, one in enumerate(placed) if n % 10 > 6
        ]
        async with transaction(self.orders) as tx:
            await orders.mark_paid(tx, paid)
        async with transaction(self.orders) as tx:
            await orders.mark_rejected(tx, refused)

    async def purges(self) -> None:
        """A week later the event logs hold nothing of this any more."""
        for pool in (self.users, self.orders):
            await pool.execute("DELETE FROM outbox")
            await pool.execute("DELETE FROM event_log")

    async def has_published(self) -> None:
        """All of this was published an hour ago."""
        for pool in (self.users, self.orders):
            await pool.execute("DELETE FROM outbox")
            await pool.execute("UPDATE event_log SET occurred_at = occurred_at - interval '1 hour'")


def _received(tx: Transaction, outcome: Callable[..., Any], order: Order) -> Envelope[Any]:
    return Envelope(tx.new_id(), outcome(order.state()), now(), CAUSE)


@pytest.fixture
async def past(extended: Extended) -> AsyncIterator[Past]:
    chorus = extended.installation
    async with (
        asyncpg.create_pool(chorus.database_admin_url("users"), min_size=1) as users_pool,
        asyncpg.create_pool(chorus.database_admin_url("orders"), min_size=1) as orders_pool,
    ):
        yield Past(users_pool, orders_pool)


COLUMNS: Final = "id, user_id, total, status, reason, placed_at, version"
EVENTS: Final = """
SELECT coalesce(sum(events), 0) FROM event_log
WHERE routing_key IN ('order-placed.v1', 'order-paid.v1', 'order-rejected.v1')
"""


@pytest.mark.timeout(600)
async def test_a_service_added_after_10_000_orders_knows_them_all(
    extended: Extended, past: Past, processes: Processes
) -> None:
    buyers = await past.registers(BATCH)
    for _ in range(ORDERS // BATCH // 2):
        await past.places(buyers)
    await past.purges()
    later = await past.registers(BATCH)
    for _ in range(ORDERS // BATCH // 2):
        await past.places(later)
    await past.has_published()
    logged = await past.orders.fetchval(EVENTS)

    await extended.chorus("migrate")
    await processes.start(extended.installation, "users", "orders")
    async with (
        extended.serving(),
        asyncpg.create_pool(
            extended.installation.database_admin_url("history"), min_size=1
        ) as history,
    ):
        lacking = await extended.chorus("republish", "--missing", "--dry-run")
        assert "history.order-placed: 5,000" in lacking, "the audit's rule 9 is violated"

        async with _orders_meanwhile(past, buyers[:10]):
            printed = await extended.chorus("rebuild", "history")

        assert "past_orders equals the state of orders" in printed
        assert "buyers equals the state of users" in printed

        async def equal() -> None:
            mine = await history.fetch(f"SELECT {COLUMNS} FROM past_orders ORDER BY id")
            theirs = await past.orders.fetch(f"SELECT {COLUMNS} FROM orders ORDER BY id")
            assert len(theirs) > ORDERS
            assert mine == theirs
            known = "SELECT count(*) FROM processed_events WHERE source = 'orders'"
            assert await history.fetchval(known) == await past.orders.fetchval(EVENTS) > logged

        await eventually(equal)
        assert await history.fetchval("SELECT count(*) FROM buyers") == 2 * BATCH
        assert await history.fetchval("SELECT count(*) FROM event_log") == 0
        assert "history." not in await extended.chorus("republish", "--missing", "--dry-run")
        assert (await extended.chorus("rebuild", "history")).count(" 0 mended") == 6
        await _auditor_reads_the_copies(extended.installation)


@asynccontextmanager
async def _orders_meanwhile(past: Past, buyers: Sequence[User]) -> AsyncIterator[None]:
    """Orders are placed and settled in this block."""
    ended = asyncio.Event()

    async def place() -> int:
        rounds = 0
        while not ended.is_set():
            await past.places(buyers)
            rounds += 1
        return rounds

    placing = asyncio.create_task(place())
    try:
        yield
    finally:
        ended.set()
        rounds = await placing
    assert rounds


async def _auditor_reads_the_copies(chorus: Installation) -> None:
    connection = await asyncpg.connect(chorus.auditor_url("history"))
    try:
        assert await connection.fetchval("SELECT count(*) FROM past_orders") > ORDERS
        assert await connection.fetchval("SELECT count(*) FROM buyers") == 2 * BATCH
    finally:
        await connection.close()
