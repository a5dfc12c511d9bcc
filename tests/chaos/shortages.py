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
from tests.support.unwritable import read_only

CLOCK_SECONDS: Final = 2.0
"""A jump lasts so much longer than other faults: a process may notice it a second late."""

ROOM_BYTES: Final = 1 << 20
"""What a process may still allocate, on top of what it has."""


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
        try:
            connection = await asyncpg.connect(self._world.private.postgres.url, timeout=5)
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            raise NothingToDoError(repr(error)) from None
        try:
            await connection.execute(f"ALTER ROLE {login} CONNECTION LIMIT 0")
            await connection.execute(_TERMINATE, login)
            await asyncio.sleep(fault.seconds)
            await connection.execute(f"ALTER ROLE {login} CONNECTION LIMIT -1")
        finally:
            await connection.close()

    async def clock(self, fault: Fault) -> None:
        self._world.running(fault.target)
        self._world.set_clock(fault.target, fault.how)
        await asyncio.sleep(fault.seconds + CLOCK_SECONDS)
        self._world.set_clock(fault.target, "+0")

    async def file_handles(self, fault: Fault) -> None:
        pid = self._world.running(fault.target).child.pid
        async with _limited(pid, resource.RLIMIT_NOFILE, _open_files(pid)):
            await asyncio.sleep(fault.seconds)

    async def memory(self, fault: Fault) -> None:
        pid = self._world.running(fault.target).child.pid
        async with _limited(pid, resource.RLIMIT_AS, _memory(pid) + ROOM_BYTES):
            await asyncio.sleep(fault.seconds)


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
