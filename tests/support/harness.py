"""One service in this process, on servers of its own: tell it something, see what it does and what it says."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, TypeVar
from uuid import UUID

import asyncpg
import httpx
from aio_pika.abc import AbstractIncomingMessage
from fastapi import FastAPI

from chassis.messaging.outbox import Row
from chassis.messaging.topology import DEAD
from chassis.runtime.service import Service
from chassis.web.auth import Role
from events.base import Event
from events.users import UserState
from tests.support.broker import Broker, Tap
from tests.support.eventually import eventually
from tests.support.installation import Installation, environment
from tests.support.tokens import Signer

E = TypeVar("E", bound=Event)
T = TypeVar("T")

OPERATOR: Final = UUID("00000000-0000-7000-8000-0000000000ff")
"""The operator of every test; nobody's user."""


class RunningService:
    """A service that runs in this process, and everything around it."""

    app: FastAPI
    broker: Broker
    database: "asyncpg.Pool[asyncpg.Record]"
    tap: Tap

    def __init__(self, name: str, app: FastAPI, installation: Installation) -> None:
        self.name = name
        self.app = app
        self.installation = installation
        self.signer = Signer()

    @contextlib.asynccontextmanager
    async def running(
        self, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator["RunningService"]:
        """Start the service, with more settings if it needs them, and stop it at the end of the block."""
        self.broker = Broker(self.installation.amqp_admin_url)
        await self.broker.open()
        self.database = await asyncpg.create_pool(
            self.installation.database_admin_url(self.name), min_size=1, max_size=4
        )
        try:
            with environment(self.installation.environment | dict(settings or {})):
                async with self.app.router.lifespan_context(self.app):
                    await self.hears_of_key()
                    yield self
        finally:
            await self.database.close()
            await self.broker.close()

    async def hears_of_key(self) -> None:
        """Make the service trust this harness's tokens."""
        await self.hears(self.signer.published())

    @contextlib.asynccontextmanager
    async def listened_to(self) -> AsyncIterator["RunningService"]:
        """Collect what it says in the block; nothing may be parked in it that nobody has taken."""
        await self.is_quiet()  # what an earlier test has made it decide to say is not this one's
        async with self.broker.tap(self.name) as self.tap:
            yield self
        del self.tap
        left = [m.headers.get("dead_letter_error") for m in await self._left_dead_letters()]
        assert not left, f"parked without being expected: {left}"

    async def _left_dead_letters(self) -> list[AbstractIncomingMessage]:
        left = []
        while (message := await self.broker.take(f"{self.name}.{DEAD}")) is not None:
            left.append(message)
        return left

    async def is_ready(self, status: int = 200) -> None:
        """Wait until it says that it is ready; or, with 503, that it is not."""
        async with self.http() as stranger:

            async def says_so() -> None:
                assert (await stranger.get("/ready")).status_code == status

            await eventually(says_so)

    def provided(self, kind: type[T]) -> T:
        """The object of a type that its routes use."""
        found: T = self.app.state.provided[kind]
        return found

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    # Its ears.

    async def receives(self, *events: Event | Row, as_batch: bool = False) -> list[Row]:
        """Publish events to their exchanges, each as a message or as packs; does not wait for their effects."""
        return await self.broker.publish(*events, as_batch=as_batch)

    async def hears(self, *events: Event | Row, as_batch: bool = False) -> list[Row]:
        """The same, and wait until each has had its effects and what follows from it has been said."""
        rows = await self.receives(*events, as_batch=as_batch)
        await self.has_heard(*rows)
        return rows

    async def has_heard(self, *rows: Row) -> None:
        """Wait until events have had their effects and all is said that follows from them."""
        ids = list({row.id for row in rows})
        known = "SELECT count(*) FROM inbox WHERE event_id = ANY($1)"

        async def all_known() -> None:
            assert await self.value(known, ids) == len(ids), f"{self.name} has not heard all"

        await eventually(all_known)
        await self.all_acknowledged(*rows)
        await self.is_quiet()

    async def all_acknowledged(self, *rows: Row) -> None:
        """Wait until the queues that the events went through are empty."""
        queues = {f"{self.name}.{row.routing_key.rpartition('.v')[0]}" for row in rows}

        async def empty() -> None:
            for queue in queues:
                assert await self.broker.waiting(queue) == 0, queue

        await eventually(empty)

    # Its mouth.

    async def is_quiet(self) -> None:
        """Wait until everything that the service has decided to say is said, and collected."""

        async def empty() -> None:
            waiting = "SELECT count(*) FROM outbox WHERE retry_at IS NULL"
            assert await self.value(waiting) == 0, f"{self.name} has more to say"

        await eventually(empty)
        if hasattr(self, "tap"):
            await self.tap.flush()

    @property
    def said(self) -> list[Event]:
        """What it has published since the test began, in order."""
        return self.tap.events

    def said_of(self, kind: type[E]) -> list[E]:
        """The events of one kind among them."""
        return [event for event in self.said if isinstance(event, kind)]

    async def says(self, count: int) -> list[Event]:
        """Wait until it has published `count` events in this test; more are an error."""

        async def enough() -> None:
            assert len(self.said) >= count, self.said

        await eventually(enough)
        await self.is_quiet()
        assert len(self.said) == count, self.said
        return self.said

    async def dead_letters(self, count: int = 1) -> list[AbstractIncomingMessage]:
        """Wait until it has parked `count` messages, and take them out of its dead queue."""
        return await self.broker.dead_letter(self.name, count)

    # Its door.

    def http(
        self, user: UserState | UUID | None = None, *, role: Role = "user", token: str | None = None
    ) -> httpx.AsyncClient:
        """A client of the service: a user's, or a stranger's."""
        id = user.id if isinstance(user, UserState) else user
        token = token or (self.signer.token(id, role) if id else None)
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app),
            base_url=f"http://{self.name}.test",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=60,
        )

    def as_operator(self) -> httpx.AsyncClient:
        return self.http(OPERATOR, role="operator")

    # Its memory.

    async def rows(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """What stands in its database, read as an administrator."""
        found: list[asyncpg.Record] = await self.database.fetch(sql, *values)
        return found

    async def value(self, sql: str, *values: Any) -> Any:
        return await self.database.fetchval(sql, *values)

    @contextlib.asynccontextmanager
    async def meanwhile(
        self,
    ) -> AsyncIterator["asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"]:
        """Another replica's transaction; it commits at the end of the block."""
        async with self.database.acquire() as connection, connection.transaction():
            yield connection

    async def is_blocked(self) -> None:
        """Wait until the service waits for a lock in its database."""
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"
        )

        async def blocked() -> None:
            assert await self.value(waiting, self.installation.login(self.name)) > 0

        await eventually(blocked)
