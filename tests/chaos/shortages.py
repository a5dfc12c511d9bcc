"""Shortages: of writes, of connections, of file handles, of memory; and clocks that are wrong."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import asyncpg

from chassis.database.errors import CONNECTION_LOST
from tests.chaos.schedule import Fault
from tests.chaos.world import NothingToDoError, World
from tests.support.processes import frozen
from tests.support.unwritable import read_only
from tools.children import ChildFailed

READY_SECONDS: Final = 20.0

CLOCK_SECONDS: Final = 2.0
"""A jump lasts so much longer than other faults: a process may notice it a second late."""


class Shortages:
    """Does shortages, and ends them. What has suffered one recovers by itself, or dies and is started again."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.kinds: dict[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "read only": self.read_only,
            "connections taken": self.connections_taken,
            "clock": self.clock,
            "file handles": self.file_handles,
            "memory": self.memory,
        }

    async def read_only(self, fault: Fault) -> None:
        async with read_only(self._world.private.postgres):
            await asyncio.sleep(fault.seconds)

    async def connections_taken(self, fault: Fault) -> None:
        """A service's connections are lost, and the server grants it no other one."""
        login = self._world.installation.login(fault.target)
        async with self._administrator() as administrator:
            await administrator.execute(f"ALTER ROLE {login} CONNECTION LIMIT 0")
            await administrator.execute(_TERMINATE, login)
            await asyncio.sleep(fault.seconds)
            await administrator.execute(f"ALTER ROLE {login} CONNECTION LIMIT -1")

    async def clock(self, fault: Fault) -> None:
        """A clock that is slow is that of a new process: ids of one that runs never go back."""
        process = self._world.running(fault.target)
        self._world.set_clock(fault.target, fault.how)
        if fault.how.startswith("-"):
            process.kill()
            process.launch()
            # Another fault may keep it from being ready.
            with contextlib.suppress(AssertionError, ChildFailed, TimeoutError):
                await asyncio.wait_for(process.ready(), READY_SECONDS)
        await asyncio.sleep(fault.seconds + CLOCK_SECONDS)
        self._world.set_clock(fault.target, "+0")

    async def file_handles(self, fault: Fault) -> None:
        """Connections to PostgreSQL are lost, and the process can open no other one."""
        pid = self._world.running(fault.target).child.pid
        async with _limited(pid, resource.RLIMIT_NOFILE, _open_files(pid)):
            await self._disconnect(fault.target)
            await asyncio.sleep(fault.seconds)

    async def memory(self, fault: Fault) -> None:
        """After a pause a process has more to do at once than before, and no more memory for it."""
        child = self._world.running(fault.target).child
        async with contextlib.AsyncExitStack() as limits:
            async with frozen(child):
                await asyncio.sleep(fault.seconds / 2)
                await self._disconnect(fault.target)
                limit = _limited(child.pid, resource.RLIMIT_AS, _memory(child.pid))
                await limits.enter_async_context(limit)
            await asyncio.sleep(fault.seconds)

    async def _disconnect(self, process: str) -> None:
        """End the connections to PostgreSQL of a process's service. Raises NothingToDoError."""
        login = self._world.installation.login(process.partition(" ")[0])
        async with self._administrator() as administrator:
            await administrator.execute(_TERMINATE, login)

    @contextlib.asynccontextmanager
    async def _administrator(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            connection = await asyncpg.connect(self._world.private.postgres.url, timeout=5)
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            raise NothingToDoError(repr(error)) from None
        try:
            yield connection
        finally:
            await connection.close(timeout=5)


def _open_files(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])


def _memory(pid: int) -> int:
    """The bytes of its address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


@contextlib.asynccontextmanager
async def _limited(pid: int, what: int, limit: int) -> AsyncIterator[None]:
    """The process has a lower soft limit in this block. Raises OSError if it ends before that."""
    soft, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (limit, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, (soft, hard))


_TERMINATE: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
