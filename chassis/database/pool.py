"""The connections to a service's own database: an asyncpg pool for use cases, SQLModel sessions for reading.

Only `chassis.database.transaction` begins and commits transactions that write.
"""

import asyncio
import contextlib
import math
import ssl
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import stamina
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from chassis.database.addresses import arguments
from chassis.database.transaction import (
    Pool,
    TimedConnection,
    keep_session,
    measure_clock,
    transaction,
)

log = structlog.get_logger(__name__)

SERVER_SETTINGS = {
    "synchronous_commit": "on",
    "statement_timeout": "15000",
    "lock_timeout": "10000",
    "idle_in_transaction_session_timeout": "30000",
    "jit": "off",
}
"""A COMMIT is durable when it is answered, however the server, the database or the role is configured. Timeouts are in
milliseconds; a statement that exceeds one is retried like any transient error. JIT compilation costs more than it saves
on statements this short."""

UNSAFE = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"
"""Settings with which a crash of the server's machine loses or corrupts what is committed; no session sets them."""

COMMAND_SECONDS = 20.0
"""How long a statement may take before its connection counts as lost. Longer than `statement_timeout`, which only a
server that responds can apply."""

BY_KEY = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""Forces plans that use indexes: use cases find sets of rows by key. PostgreSQL keeps the plan of a prepared statement
until the table is analysed; a plan made for an empty table scans all of it, however large it has become."""

PRIMARY = "primary"
"""A standby is not connected to, whatever name leads to it: of several hosts in a URL, the primary is."""

CONNECT_SECONDS = 5.0
"""How long connecting may take; a frozen server accepts the TCP connection and never responds."""

CHECK_SECONDS = 2.0
"""Timeout of the readiness check."""

WRITE_SECONDS = 5.0
"""For how long a write of the readiness check stands for the next ones, which only read."""

WRITE = "INSERT INTO write_check (filler) SELECT repeat(' ', 7000)"
"""A row that fills a page of a table without free pages: a standby, a read-only server and a full disk refuse it. It is
rolled back, which needs no sync of the disk; vacuum truncates the table."""

START_SECONDS = 60
"""How long a service waits for its servers at start."""


class UnsafeDatabaseError(Exception):
    """The server is configured to lose committed transactions."""


def _attempts() -> AsyncIterator[stamina.Attempt]:
    return stamina.retry_context(on=_is_away, attempts=None, timeout=START_SECONDS)


def _is_away(error: BaseException) -> bool:
    """Whether a server may be there later: not one whose certificate is refused."""
    if isinstance(error, DBAPIError):  # of SQLAlchemy, which wraps asyncpg's twice
        error = (error.orig and error.orig.__cause__) or error
    return isinstance(error, _AWAY) and not isinstance(error, ssl.SSLCertVerificationError)


_AWAY = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.TargetServerAttributeNotMatched,
)


class _RollBack(Exception):
    """The readiness check has written."""


class Database:
    """The pool and the read-only sessions of a service's database. `open` before use, `close` after it."""

    pool: Pool
    engine: AsyncEngine
    reading: async_sessionmaker[AsyncSession]
    """Makes read-only sessions: `async with database.reading() as session`."""

    def __init__(
        self, url: str, service: str, *, size: int = 8, allow_unsafe: bool = False
    ) -> None:
        self._url = url
        self._service = service
        self._size = size
        self._allow_unsafe = allow_unsafe
        self._check: asyncio.Task[str] | None = None
        self._written = -math.inf
        """When the readiness check has last written, in the event loop's time."""

    async def open(self) -> None:
        """Connect; waits up to START_SECONDS for the server, and for a connection if all are taken.

        Raises UnsafeDatabaseError if a crash could lose what the server has committed, unless that is allowed.
        """
        server_settings = {**SERVER_SETTINGS, "application_name": f"chorus-{self._service}"}
        connecting = arguments(self._url) | {
            "timeout": CONNECT_SECONDS,
            "target_session_attrs": PRIMARY,
            "command_timeout": COMMAND_SECONDS,
        }
        async for attempt in _attempts():
            with attempt:
                self.pool = await asyncpg.create_pool(
                    **connecting,
                    min_size=1,
                    max_size=self._size + 1,  # for the relay that may wait for the journal
                    # A connection that is closed for its age when it is returned could fail after COMMIT.
                    max_queries=2**31,
                    connection_class=TimedConnection,
                    setup=measure_clock,
                    reset=keep_session,
                    server_settings=server_settings | BY_KEY,
                )
        await self._check_durability()
        self.engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=partial(
                asyncpg.connect,
                **connecting,
                server_settings={**server_settings, "default_transaction_read_only": "on"},
            ),
            pool_size=self._size,
            pool_pre_ping=True,
        )
        # Nothing later in the start has to wait for a first connection.
        async for attempt in _attempts():
            with attempt:
                async with self.engine.connect():
                    pass
        self.reading = async_sessionmaker(self.engine, class_=AsyncSession, expire_on_commit=False)

    async def _check_durability(self) -> None:
        unsafe = [row["name"] for row in await self.pool.fetch(UNSAFE)]
        if not unsafe:
            return
        if not self._allow_unsafe:
            await self.pool.close()
            raise UnsafeDatabaseError(
                f"PostgreSQL runs with {' and '.join(f'{name}=off' for name in unsafe)}: a crash of its machine would"
                " lose or corrupt orders. CHORUS_ALLOW_UNSAFE_DATABASE=true starts nevertheless."
            )
        log.warning("database.unsafe", settings=unsafe)

    async def fault(self) -> str:
        """Why nothing can be written; empty if a connection is free and the database answers within CHECK_SECONDS.

        It is asked to write if that was last done more than WRITE_SECONDS ago, else to read.

        If the server does not respond a check takes longer. There is at most one at a time; the next call waits for it.
        """
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._round_trip())
        await asyncio.wait([self._check], timeout=CHECK_SECONDS)
        return self._check.result() if self._check.done() else "no answer"

    async def _round_trip(self) -> str:
        loop = asyncio.get_running_loop()
        try:
            if loop.time() - self._written < WRITE_SECONDS:
                await self.pool.fetchval("SELECT true", timeout=CHECK_SECONDS)
            else:
                await self._write()
                self._written = loop.time()
        except Exception as error:
            self._written = -math.inf
            return type(error).__name__  # a message may name hosts and roles
        return ""

    async def _write(self) -> None:
        with contextlib.suppress(_RollBack):
            async with transaction(self.pool) as tx:
                await tx.execute(WRITE)
                raise _RollBack

    def abandon(self) -> None:
        """Close all connections without waiting for the server, which rolls back their transactions."""
        self.pool.terminate()
        self.engine.sync_engine.dispose(close=False)

    async def close(self) -> None:
        """Close all connections; those in use once they are released."""
        await self.engine.dispose()
        await self.pool.close()
