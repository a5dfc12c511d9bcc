"""The real PostgreSQL, statement by statement: the world stands still until each has been answered.

Connections live on a loop of their own, which runs only while a statement does. A statement that waits for a lock is
left waiting, and is checked again whenever a transaction ends; so time decides nothing, nor does chance.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import asyncpg

from chassis.database.pool import BY_KEY
from tests.simulation.loop import resolve
from tests.support.installation import Installation

T = TypeVar("T")
Real = Any  # asyncpg.Connection, which has no types of its own

LOOK_SECONDS: Final = 0.001
"""How long a statement may take before the server is asked whether it waits for a lock."""

CLOCK: Final = """
CREATE SCHEMA IF NOT EXISTS simulated;
GRANT USAGE ON SCHEMA simulated TO PUBLIC;
CREATE OR REPLACE FUNCTION simulated.now() RETURNS timestamptz STABLE LANGUAGE sql
    AS $$ SELECT current_setting('simulated.moment')::timestamptz $$;
CREATE OR REPLACE FUNCTION simulated.clock_timestamp() RETURNS timestamptz STABLE LANGUAGE sql
    AS $$ SELECT current_setting('simulated.moment')::timestamptz $$
"""
"""The server's clock is that of the simulation: these stand before its own in `search_path`."""

SETTINGS: Final = {
    "search_path": "simulated, pg_catalog, public",
    "synchronous_commit": "off",  # the server itself never dies here
    "simulated.moment": "epoch",
}
TABLES: Final = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
"""
BLOCKING: Final = "SELECT pg_blocking_pids($1)"
IS_BLOCKED: Final = "SELECT cardinality(pg_blocking_pids($1)) > 0"


@dataclass(frozen=True)
class Guard:
    """What stands round a statement that is to fail instead of waiting, and to leave no trace when it has failed.

    Nothing else runs meanwhile: a statement that waits would wait for ever.
    """

    before: str
    after: str
    fallback: str


WITHIN: Final = Guard(
    "SAVEPOINT guard; SET LOCAL lock_timeout = '5ms'",
    "RELEASE guard; SET LOCAL lock_timeout = 0",
    "ROLLBACK TO guard; RELEASE guard",
)
"""Within a transaction."""

ALONE: Final = Guard("SET lock_timeout = '5ms'", "RESET lock_timeout", "RESET lock_timeout")
"""For a statement that is its own transaction."""


@dataclass(eq=False)
class Statement:
    """A statement on its way."""

    service: str
    connection: Real
    method: str
    sql: str
    values: tuple[Any, ...]
    answer: "asyncio.Future[Any]"
    again: Callable[[], None]
    """Have it performed later."""
    task: "asyncio.Task[Any] | None" = None

    def tell(self) -> None:
        """Answer it."""
        assert self.task is not None
        error = self.task.exception()
        resolve(self.answer, self.task.result() if error is None else error)


class Postgres:
    """All databases of one installation, used by one schedule after the other."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._loop = asyncio.new_event_loop()
        self._idle: dict[str, list[Real]] = defaultdict(list)
        self._administrators: dict[str, Real] = {}
        self._wipe: dict[str, str] = {}
        self._waiting: dict[str, Statement] = {}
        self._behind: dict[str, list[Statement]] = defaultdict(list)
        for service in installation.services:
            self.run(self._prepare(service))

    async def _prepare(self, service: str) -> None:
        url = self.installation.database_admin_url(service)
        settings = {**SETTINGS, "session_replication_role": "replica"}
        connection = await asyncpg.connect(url, server_settings=settings)
        await connection.execute(CLOCK)
        tables = [record[0] for record in await connection.fetch(TABLES)]
        for (
            table
        ) in tables:  # it comes when it likes, and then other plans find rows in other orders
            await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        self._wipe[service] = "; ".join(f"DELETE FROM {table}" for table in tables)
        self._administrators[service] = connection

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the server's loop run until something is done; the simulated one stands still."""
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return self._loop.run_until_complete(work)
        finally:
            asyncio._set_running_loop(outer)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections():
            self.run(connection.close())
        self._loop.close()

    def _connections(self) -> Iterator[Real]:
        for idle in self._idle.values():
            yield from idle
        yield from self._administrators.values()

    # For the whole of a schedule.

    @property
    def administrators(self) -> Mapping[str, Real]:
        """A superuser's connection to each database, to be used inside `run`."""
        return self._administrators

    def wipe(self) -> None:
        """Empty all tables."""
        assert not self._waiting
        self._behind.clear()
        for service, connection in self._administrators.items():
            self.run(connection.execute(self._wipe[service]))

    def administer(self, service: str, sql: str) -> None:
        """Execute something as a superuser."""
        self.run(self._administrators[service].execute(sql))

    def set_clock(self, moment: datetime) -> None:
        """What administrators' statements take for now."""
        for connection in self._administrators.values():
            self.run(connection.execute(f"SET simulated.moment = '{moment.isoformat()}'"))

    # For one process.

    def holds_up(self, service: str, connections: Collection[Real]) -> int:
        """How many statements of other connections wait for locks, if the first waits for one of these."""
        first = self._waiting.get(service)
        if first is None or first.connection in connections:
            return 0
        pid = first.connection.get_server_pid()
        blocking = self.run(self._administrators[service].fetchval(BLOCKING, pid))
        if not any(one.get_server_pid() in blocking for one in connections):
            return 0
        return 1 + sum(one.connection not in connections for one in self._behind[service])

    def connection(self, service: str) -> Real:
        """A connection of a service, made if none is idle."""
        if self._idle[service]:
            return self._idle[service].pop()
        url = self.installation.database_url(service)
        return self.run(asyncpg.connect(url, server_settings=SETTINGS | BY_KEY))

    def give_back(self, service: str, connection: Real) -> None:
        """As if it had been closed: what it had begun is undone."""
        if (statement := self._waiting.get(service)) and statement.connection is connection:
            del self._waiting[service]
            self.run(self._cancel(statement))
        if connection.is_closed():
            return
        if connection.is_in_transaction():
            self.run(connection.execute("ROLLBACK"))
            self._let_go(service)
        self._idle[service].append(connection)

    @staticmethod
    async def _cancel(statement: Statement) -> None:
        assert statement.task is not None
        statement.task.cancel()
        await asyncio.wait([statement.task])
        # The server may still be at it. Nothing else happens until it has stopped.
        with contextlib.suppress(asyncpg.PostgresError):
            await statement.connection.execute("SELECT")

    def perform(self, statement: Statement) -> None:
        """Execute a statement, and answer it. If it waits for a lock, it is answered once it has it.

        One waits at a time in each database: of several PostgreSQL would choose. Others are tried again when a
        transaction ends, in an order that is chosen here.
        """
        connection, service = statement.connection, statement.service
        guard = None
        if service in self._waiting and not statement.sql.startswith(
            ("BEGIN", "COMMIT", "ROLLBACK")
        ):
            guard = WITHIN if connection.is_in_transaction() else ALONE
            self.run(connection.execute(guard.before))
        statement.task = self._loop.create_task(
            getattr(connection, statement.method)(statement.sql, *statement.values)
        )
        if not self.run(self._done_or_blocked(statement)):
            self._waiting[service] = statement
            return
        if guard is not None:
            error = statement.task.exception()
            if isinstance(error, asyncpg.LockNotAvailableError):
                self.run(connection.execute(guard.fallback))
                self._behind[service].append(statement)
                return
            if error is None or guard is ALONE:
                self.run(connection.execute(guard.after))
        statement.tell()
        if statement.task.exception() or not connection.is_in_transaction():
            self._let_go(service)

    def _let_go(self, service: str) -> None:
        """Locks were released: the statement that waited has its lock, or waits for another."""
        statement = self._waiting.get(service)
        if statement is not None and self.run(self._done_or_blocked(statement)):
            del self._waiting[service]
            statement.tell()
        behind, self._behind[service] = self._behind[service], []
        for other in behind:
            other.again()

    async def _done_or_blocked(self, statement: Statement) -> bool:
        assert statement.task is not None
        while not statement.task.done():
            await asyncio.wait([statement.task], timeout=LOOK_SECONDS)
            if (
                statement.task.done()
                or self._waiting.get(statement.service, statement) is not statement
            ):
                continue  # behind another it does not wait, but fails
            pid = statement.connection.get_server_pid()
            if await self._administrators[statement.service].fetchval(IS_BLOCKED, pid):
                return False
        return True
