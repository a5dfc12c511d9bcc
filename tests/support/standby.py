"""PostgreSQL fails over: a streaming replica takes the primary's address, and is promoted there."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from tests.support.eventually import eventually
from tools.servers import PrivatePostgres
from tools.servers.install import postgres_programs

NAME: Final = "standby"

CATCHES_UP_SECONDS: Final = 30.0

IN_STEP: Final = """
SELECT count(*) = 1 FROM pg_stat_replication
WHERE application_name = $1 AND sync_state = 'sync' AND flush_lsn >= $2::text::pg_lsn
"""


class Standby(PrivatePostgres):
    """A streaming replica of a server that runs, with a port of its own."""

    def __init__(self, folder: Path, primary: PrivatePostgres) -> None:
        folder.chmod(0o755)  # the server runs under an account of its own
        super().__init__(folder)
        self._primary = primary

    def launch(self) -> None:
        """Copy the primary's data, and follow it."""
        server = urlsplit(self._primary.url)
        conninfo = (
            f"host=127.0.0.1 port={server.port} user=postgres password={server.password}"
            f" application_name={NAME}"
        )
        copy: list[str | Path] = [
            postgres_programs() / "pg_basebackup", f"--pgdata={self.data}", f"--dbname={conninfo}",
            "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        ]  # fmt: skip
        self._child("pg_basebackup", copy).run(within=120)
        self.process.start()


@contextlib.asynccontextmanager
async def followed(primary: PrivatePostgres) -> AsyncIterator[Standby]:
    """In this block a standby has every commit before the primary answers it.

    `synchronous_standby_names` is set only here: without a standby it would hold every commit back.
    """
    with tempfile.TemporaryDirectory(dir=primary.data.parents[1], prefix=NAME) as folder:
        standby = Standby(Path(folder), primary)
        try:
            await asyncio.to_thread(standby.start)
            async with _synchronous(primary):
                yield standby
        finally:
            standby.discard()


@contextlib.asynccontextmanager
async def _synchronous(primary: PrivatePostgres) -> AsyncIterator[None]:
    connection = await asyncpg.connect(primary.url, timeout=5)
    try:
        await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")
        await connection.execute("SELECT pg_reload_conf()")
        written = await connection.fetchval("SELECT pg_current_wal_lsn()::text")

        async def in_step() -> None:
            assert await connection.fetchval(IN_STEP, NAME, written)

        await eventually(in_step, within=CATCHES_UP_SECONDS)
        yield
    finally:
        # If the primary was killed, its successor has never had the setting.
        with contextlib.suppress(OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
            await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await connection.execute("SELECT pg_reload_conf()")
        await connection.close(timeout=5)


def take_over(primary: PrivatePostgres, standby: Standby) -> None:
    """The primary is gone for good, and the standby answers at its address: it still refuses to write."""
    primary.kill()
    standby.stop()
    shutil.rmtree(primary.data)
    standby.data.rename(primary.data)
    primary.start()


async def promote(server: PrivatePostgres) -> None:
    """The standby becomes a primary."""
    connection = await asyncpg.connect(server.url, timeout=5)
    try:
        assert await connection.fetchval("SELECT pg_promote()")
    finally:
        await connection.close(timeout=5)
