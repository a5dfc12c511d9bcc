"""A release with a fifth service, *history*, which copies all orders and their buyers."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from apps import SERVICES
from tests.support.eventually import eventually
from tests.support.installation import Installation
from tools.children import Child
from tools.servers.ports import private_port

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("events", "chassis", "apps", "ops")

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
from chassis.database.migrations import chassis_0001, run

revision = "0001"
down_revision = None
PRIVILEGES = {"past_orders, buyers": "SELECT, INSERT, UPDATE"}


def upgrade():
    chassis_0001.upgrade()
    run(
        "CREATE TABLE past_orders (id uuid PRIMARY KEY, user_id uuid NOT NULL, total bigint NOT NULL,"
        " status varchar NOT NULL, reason varchar, placed_at timestamptz NOT NULL, version integer NOT NULL);\\n"
        "CREATE TABLE buyers (id uuid PRIMARY KEY, name varchar NOT NULL, version integer NOT NULL)"
    )
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


def release(four: Installation, root: Path) -> Extended:
    """Write the release to a folder; the installation of four services gets room for the fifth."""
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
