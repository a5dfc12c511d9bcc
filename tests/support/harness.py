"""One service in this process, on servers of its own: send it events and requests, observe its effects."""

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
                    await self.trust_signer()
                    yield self
        finally:
            await self.database.close()
            await self.broker.close()

    async def trust_signer(self) -> None:
        """Make the service trust this harness's tokens."""
        await self.processes(self.signer.published())

    @contextlib.asynccontextmanager
    async def observed(self) -> AsyncIterator["RunningService"]:
        """Collect what it publishes in the block. Fails if dead letters remain that the test did not take."""
        await self.is_quiet()  # events of an earlier test are not collected
        async with self.broker.tap(self.name) as self.tap:
            yield self
        del self.tap
        left = [m.headers.get("dead_letter_error") for m in await self._left_dead_letters()]
        assert not left, f"unexpected dead letters: {left}"

    async def _left_dead_letters(self) -> list[AbstractIncomingMessage]:
        left = []
        while (message := await self.broker.take(f"{self.name}.{DEAD}")) is not None:
            left.append(message)
        return left

    async def is_ready(self, status: int = 200) -> None:
        """Wait until `/ready` answers with this status: 200 if it is ready, 503 if it is not."""
        async with self.http() as anonymous:

            async def answers_so() -> None:
                assert (await anonymous.get("/ready")).status_code == status

            await eventually(answers_so)

    def provided(self, kind: type[T]) -> T:
        """The object of a type that its routes use."""
        found: T = self.app.state.provided[kind]
        return found

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service

    # Consuming.

    async def receives(self, *events: Event | Row, as_batch: bool = False) -> list[Row]:
        """Publish events to their exchanges, alone or in message batches; does not wait for their effects."""
        return await self.broker.publish(*events, as_batch=as_batch)

    async def processes(self, *events: Event | Row, as_batch: bool = False) -> list[Row]:
        """The same, and wait until each is processed and the resulting events are published."""
        rows = await self.receives(*events, as_batch=as_batch)
        await self.has_processed(*rows)
        return rows

    async def has_processed(self, *rows: Row) -> None:
        """Wait until events are processed and the resulting events are published."""
        ids = list({row.id for row in rows})
        known = "SELECT count(*) FROM processed_events WHERE event_id = ANY($1)"

        async def all_known() -> None:
            assert await self.value(known, ids) == len(ids), f"{self.name} has not processed all"

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

    # Publishing.

    async def is_quiet(self) -> None:
        """Wait until the outbox is empty and every published event is collected."""

        async def empty() -> None:
            waiting = (
                "SELECT (SELECT count(*) FROM outbox WHERE retry_at IS NULL)"
                " + (SELECT count(*) FROM journal_outbox)"
            )
            assert await self.value(waiting) == 0, f"{self.name} has unpublished events"

        await eventually(empty)
        if hasattr(self, "tap"):
            await self.tap.flush()

    @property
    def published(self) -> list[Event]:
        """What it has published since the test began, in order."""
        return self.tap.events

    def published_of(self, kind: type[E]) -> list[E]:
        """The events of one kind among them."""
        return [event for event in self.published if isinstance(event, kind)]

    async def publishes(self, count: int) -> list[Event]:
        """Wait until it has published `count` events in this test; more are an error."""

        async def enough() -> None:
            assert len(self.published) >= count, self.published

        await eventually(enough)
        await self.is_quiet()
        assert len(self.published) == count, self.published
        return self.published

    async def dead_letters(self, count: int = 1) -> list[AbstractIncomingMessage]:
        """Wait until it has dead-lettered `count` messages, and take them out of its dead-letter queue."""
        return await self.broker.dead_letter(self.name, count)

    # HTTP API.

    def http(
        self, user: UserState | UUID | None = None, *, role: Role = "user", token: str | None = None
    ) -> httpx.AsyncClient:
        """A client of the service: a user's, or an anonymous one."""
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

    # Database.

    async def rows(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """Rows of its database, read as an administrator."""
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
