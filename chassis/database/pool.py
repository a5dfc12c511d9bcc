"""A service's own database: a plain asyncpg pool for use cases, SQLModel sessions for reading.

Nothing but `chassis.database.transaction` begins or commits a transaction that writes.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import stamina
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database.transaction import Pool

SERVER_SETTINGS = {
    "statement_timeout": "15000",
    "lock_timeout": "10000",
    "idle_in_transaction_session_timeout": "30000",
    "jit": "off",
}
"""Milliseconds. A statement that runs into its limit counts as the server's fault, and is tried again. JIT costs more
than it gives on statements this short."""

SILENCE_SECONDS = 20.0
"""How long a statement may take before its connection counts as lost: longer than `statement_timeout`, which a server
that has fallen silent cannot keep."""

BY_KEY = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""Use cases find rows by key, in sets. PostgreSQL keeps a prepared statement's plan for as long as nobody analyses the
table; one made while the table was empty reads all of it, each time, however large it has become."""

CONNECT_SECONDS = 5.0
"""How long the server may take to let a connection in; one that is frozen accepts it and says nothing."""

ANSWER_SECONDS = 2.0
"""How long the server may take to show that it is there."""

START_SECONDS = 60
"""How long a service that starts waits for its servers before it gives up."""


class Database:
    """The two ways to a service's database. `open` before use, `close` after it."""

    pool: Pool
    engine: AsyncEngine

    def __init__(self, url: str, service: str, *, size: int = 8) -> None:
        self._url = url
        self._service = service
        self._size = size
        self._asked: asyncio.Task[bool] | None = None

    async def open(self) -> None:
        """Connect; waits up to START_SECONDS for the server."""
        server_settings = {**SERVER_SETTINGS, "application_name": f"chorus-{self._service}"}
        async for attempt in stamina.retry_context(
            on=(OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError),
            attempts=None,
            timeout=START_SECONDS,
        ):
            with attempt:
                self.pool = await asyncpg.create_pool(
                    self._url,
                    min_size=1,
                    max_size=self._size,
                    timeout=CONNECT_SECONDS,
                    reset=_keep,
                    command_timeout=SILENCE_SECONDS,
                    server_settings=server_settings | BY_KEY,
                )
        self.engine = create_async_engine(
            self._url.replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_size=self._size,
            pool_pre_ping=True,
            connect_args={
                "timeout": CONNECT_SECONDS,
                "command_timeout": SILENCE_SECONDS,
                "server_settings": {**server_settings, "default_transaction_read_only": "on"},
            },
        )
        self._sessions = async_sessionmaker(
            self.engine, class_=AsyncSession, expire_on_commit=False
        )

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that can only read."""
        async with self._sessions() as session:
            yield session

    async def answers(self) -> bool:
        """Whether a round trip succeeds by now, and a connection for it is to be had.

        A server that has fallen silent holds both for longer; so they are not asked for again before that has ended.
        """
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._ask())
        await asyncio.wait([self._asked], timeout=ANSWER_SECONDS)
        return self._asked.done() and self._asked.result()

    async def _ask(self) -> bool:
        try:
            return bool(await self.pool.fetchval("SELECT true", timeout=ANSWER_SECONDS))
        except (
            OSError,
            TimeoutError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ):
            return False

    def abandon(self) -> None:
        """Cut all connections, for a server that does not even say goodbye; transactions are rolled back."""
        self.pool.terminate()
        self.engine.sync_engine.dispose(close=False)

    async def close(self) -> None:
        """Close all connections, those in use after they are given back."""
        await self.engine.dispose()
        await self.pool.close()


async def _keep(connection: object) -> None:
    """Leave a connection as it is.

    asyncpg resets its settings at each release, a round trip; ours are never changed.
    """
