"""Fakes of a PostgreSQL server and its connection: they keep what is committed and fail on demand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg


class Server:
    """PostgreSQL as the committer sees it: it can be away, slow to commit, or lose the connection during COMMIT.

    Outside a transaction each statement is its own COMMIT.
    """

    def __init__(self) -> None:
        self.committed: list[Any] = []
        """Everything that became durable, a list for each transaction."""
        self.begun = 0
        self.in_transaction = False
        self.executed: list[str] = []
        self.sent: tuple[Any, ...] = ()
        """The columns of the last statement that was executed."""
        self.written: list[Any] = []
        self.faults: list[BaseException] = []
        self.commit_faults: list[BaseException] = []
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False
        self.terminated = 0

    @asynccontextmanager
    async def acquire(self, timeout: float) -> AsyncIterator["Server"]:  # noqa: ASYNC109
        if self.faults:
            raise self.faults.pop(0)
        self.closed = False
        yield self

    async def execute(self, sql: str, *columns: Any) -> str:
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")
        if sql == "BEGIN":
            self.begun += 1
            self.in_transaction = True
            self.written = []
        elif sql == "ROLLBACK":
            self.written = []
            self.in_transaction = False
        elif sql == "COMMIT":
            await self._commit()
        else:
            self.executed.append(sql)
            self.sent = columns
            if not self.in_transaction:
                await self._commit()
        return "DONE"

    async def fetch(self, sql: str, *columns: Any) -> list[Any]:
        self.executed.append(sql)
        return []

    async def _commit(self) -> None:
        await self.open.wait()
        if self.commit_faults:
            fault = self.commit_faults.pop(0)
            self.closed = isinstance(fault, asyncpg.PostgresConnectionError | OSError)
            raise fault
        self.committed.append(self.written)
        self.in_transaction = False

    def is_in_transaction(self) -> bool:
        return self.in_transaction

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        """PostgreSQL rolls back what a lost connection has begun. The pool has taken back one that is closed."""
        if self.closed:
            raise asyncpg.InterfaceError("connection has been released back to the pool")
        self.in_transaction = False
        self.terminated += 1
