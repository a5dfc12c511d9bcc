"""The pool of one process: connections to the real server, each statement a step that may fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from tests.simulation.loop import resolve
from tests.simulation.postgres import Postgres, Real, Statement

if TYPE_CHECKING:
    from tests.simulation.process import Process

NEW_LINE: Final = "\n"
SIZE: Final = 9
"""As that of a service."""


class LostError(asyncpg.ConnectionDoesNotExistError):  # type: ignore[misc]
    """The connection has gone."""


class Pool:
    """What use cases, relay and dispatcher know as `asyncpg.Pool`."""

    def __init__(self, process: "Process", postgres: Postgres) -> None:
        self.process = process
        self.postgres = postgres
        self.losing: tuple[str, str] | None = None
        """How the next statement of a kind begins that loses its connection, and whether "before" it is executed or
        "after"."""
        self.held: list[Connection] = []
        self._room = asyncio.Semaphore(SIZE)

    @contextlib.asynccontextmanager
    async def acquire(self, *, timeout: float) -> AsyncIterator["Connection"]:  # noqa: ASYNC109 - as the real one
        """A connection for a transaction."""
        async with asyncio.timeout(timeout):
            await self._room.acquire()
        connection = Connection(self)
        self.held.append(connection)
        try:
            yield connection
        finally:
            self._room.release()
            if self.process.alive:
                connection.give_up()

    def begun(self) -> list[Real]:
        """The server's connections that have a transaction open for this process."""
        reals = [one.real for one in self.held if one.real is not None]
        return [real for real in reals if real.is_in_transaction()]

    def die(self) -> None:
        """The process is dead: the server undoes what it had begun."""
        for connection in list(self.held):
            connection.give_up()


class Connection:
    """What a transaction knows as an asyncpg connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._process = pool.process
        self.real: Real = None
        """The server's, from the first statement on."""
        self._closed = False

    async def fetch(self, sql: str, *values: Any) -> Any:
        return await self._ask("fetch", sql, *values)

    async def fetchval(self, sql: str, *values: Any) -> Any:
        return await self._ask("fetchval", sql, *values)

    async def execute(self, sql: str, *values: Any) -> Any:
        return await self._ask("execute", sql, *values)

    def is_in_transaction(self) -> bool:
        return self.real is not None and bool(self.real.is_in_transaction())

    def is_closed(self) -> bool:
        return self._closed

    def terminate(self) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Let the connection go; whatever it has not committed has not happened."""
        if not self._closed:
            self._closed = True
            self._pool.held.remove(self)
        if self.real is not None:
            real, self.real = self.real, None
            self._pool.postgres.give_back(self._process.service, real)

    async def _ask(self, method: str, sql: str, *values: Any) -> Any:
        self._process.check()
        if self._closed:
            raise LostError("connection is closed")
        answer = self._process.loop.create_future()
        self._send(answer, method, sql, values)
        return await answer

    def _send(
        self, answer: "asyncio.Future[Any]", method: str, sql: str, values: tuple[Any, ...]
    ) -> None:
        what = f"{self._process.name}: {sql.strip().partition(NEW_LINE)[0][:60]}"
        self._process.loop.outside(what, self._perform, answer, method, sql, values)

    def _perform(
        self, answer: "asyncio.Future[Any]", method: str, sql: str, values: tuple[Any, ...]
    ) -> None:
        if answer.cancelled() or not self._process.alive or self._closed:
            return
        lost_at = self._lost_at(sql)
        if lost_at == "before":
            self._lose(answer)
            return
        service, postgres = self._process.service, self._pool.postgres
        if self.real is None:
            self.real = postgres.connection(service)
        if sql == "BEGIN":
            sql = f"BEGIN; SET LOCAL simulated.moment = '{self._process.now().isoformat()}'"
        again = partial(self._send, answer, method, sql, values)
        received = self._process.loop.create_future() if lost_at == "after" else answer
        postgres.perform(Statement(service, self.real, method, sql, values, received, again))
        if lost_at == "after":
            received.cancel()
            self._lose(answer)

    def _lost_at(self, sql: str) -> str:
        if self._pool.losing is None or not sql.lstrip().startswith(self._pool.losing[0]):
            return ""
        (_, at), self._pool.losing = self._pool.losing, None
        return at

    def _lose(self, answer: "asyncio.Future[Any]") -> None:
        self.give_up()
        resolve(answer, LostError("connection was closed in the middle of operation"))
