"""A fifth service is added to a Chorus that has had 10,000 orders: `chorus rebuild` gives it their history."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from apps import SERVICES
from apps.orders import use_cases as orders
from apps.orders.models import Order
from apps.users import use_cases as users
from apps.users.models import Profile, User
from chassis.database.transaction import Pool, Transaction, transaction
from events.base import Causation, Envelope
from tests.support.builders import now, payment_rejected, payment_succeeded
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tests.support.processes import Processes
from tools.children import Child
from tools.servers.ports import private_port

ROOT: Final = Path(__file__).parents[3]
FOLDERS: Final = ("events", "chassis", "apps", "ops")
ORDERS: Final = 10_000
BATCH: Final = 1_000
CAUSE: Final = Causation("test")

HISTORY: Final = {
    "__init__.py": '"""History: all orders."""\n',
    "models.py": '''
"""Orders and who placed them, as orders and users tell."""

from datetime import datetime
from uuid import UUID

from sqlmodel import BigInteger, Field

from chassis.database.tables import Table


class PastOrder(Table, table=True):
    __tablename__ = "past_orders"

    id: UUID = Field(primary_key=True)
    user_id: UUID
    total: int = Field(sa_type=BigInteger)
    status: str
    reason: str | None = None
    placed_at: datetime
    version: int


class Buyer(Table, table=True):
    __tablename__ = "buyers"

    id: UUID = Field(primary_key=True)
    name: str
    version: int
''',
    "migrations/0001_history.py": """
from chassis.database.migrations import chassis_0001, grant, run

revision = "0001"
down_revision = None


def upgrade():
    chassis_0001.upgrade()
    run(
        "CREATE TABLE past_orders (id uuid PRIMARY KEY, user_id uuid NOT NULL, total bigint NOT NULL,"
        " status varchar NOT NULL, reason varchar, placed_at timestamptz NOT NULL, version integer NOT NULL);\\n"
        "CREATE TABLE buyers (id uuid PRIMARY KEY, name varchar NOT NULL, version integer NOT NULL)"
    )
    grant("SELECT, INSERT, UPDATE", "past_orders", "buyers")
""",
    "use_cases.py": '''
from apps.history.models import Buyer, PastOrder


async def store_orders(tx, received):
    """Store the newest state of orders."""
    columns = PastOrder.model_fields
    await tx.upsert_newer(
        [PastOrder(**{name: vars(e.event.order)[name] for name in columns}) for e in received]
    )


async def store_buyers(tx, received):
    """Store users as buyers."""
    users = [e.event.user for e in received]
    await tx.upsert_newer([Buyer(id=user.id, name=user.name, version=user.version) for user in users])
''',
    "consumers.py": """
from apps.history.models import Buyer, PastOrder
from apps.history.use_cases import store_buyers, store_orders
from chassis.messaging.consumer import Subscription
from chassis.web.auth import SigningKey, store_signing_keys
from events.orders import OrderPaid, OrderPlaced, OrderRejected
from events.users import SigningKeyPublished, UserRegistered

SUBSCRIPTIONS = (
    Subscription(SigningKeyPublished, store_signing_keys, SigningKey),
    Subscription(UserRegistered, store_buyers, Buyer),
    Subscription(OrderPlaced, store_orders, PastOrder),
    Subscription(OrderPaid, store_orders, PastOrder),
    Subscription(OrderRejected, store_orders, PastOrder),
)
""",
    "main.py": """
from fastapi import APIRouter

from apps.history.consumers import SUBSCRIPTIONS
from chassis.runtime.service import create_app
from chassis.web.routing import StrictRoute

app = create_app(
    "history",
    __package__,
    description="All orders.",
    router=APIRouter(tags=["history"], route_class=StrictRoute),
    subscriptions=SUBSCRIPTIONS,
)
""",
}


@dataclass(frozen=True)
class Extended:
    """A release with the fifth service, and the installation with room for it."""

    installation: Installation
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
        return inherited | self.installation.environment | {"PYTHONPATH": str(self.root)}

    async def chorus(self, *arguments: str) -> str:
        """What a command of this release prints; it ends with status 0."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ops", *arguments,
            cwd=self.root, env=self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, out.decode() + err.decode()
        return out.decode()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """The fifth service runs."""
        log = self.root / "history.log"
        command = [sys.executable, "-m", "ops", "serve", "history", "--port", str(private_port())]
        child = Child("history", command, log=log, environment=self.environment, folder=self.root)
        child.start()
        try:
            await eventually(lambda: _started(log), within=60, what="history does not start")
            yield
        finally:
            child.kill()


async def _started(log: Path) -> bool:
    return "service.started" in _text(log)


def _text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


@pytest.fixture
async def extended(install_chorus: Install, tmp_path: Path) -> Extended:
    four = await install_chorus("history")
    root = tmp_path / "release"
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name, text in HISTORY.items():
        path = root / "apps/history" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))
    services = root / "apps/__init__.py"
    services.write_text(
        services.read_text().replace('"notifications")', '"notifications", "history")')
    )
    return Extended(replace(four, services=(*SERVICES, "history")), root)


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
