"""A PostgreSQL of a test's own that can become read-only, or whose disk can become full."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from tests.support.eventually import eventually
from tools.servers import PrivatePostgres

DISK_BYTES: Final = 64 * 1024 * 1024
READ_ONLY: Final = "default_transaction_read_only"


@asynccontextmanager
async def read_only(server: PrivatePostgres, _disk: Path) -> AsyncIterator[None]:
    """All sessions of the server are read-only, those that are open too."""
    connection = await asyncpg.connect(server.url)

    async def configure(value: str) -> None:
        await connection.execute(f"ALTER SYSTEM SET {READ_ONLY} = {value}")
        await connection.execute("SELECT pg_reload_conf()")

        async def applied() -> None:
            assert await connection.fetchval(f"SHOW {READ_ONLY}") == value

        await eventually(applied)

    try:
        await configure("on")
        yield
        await configure("off")
    finally:
        await connection.close()


@asynccontextmanager
async def full_disk(_server: PrivatePostgres, disk: Path) -> AsyncIterator[None]:
    """No byte is left on a disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        block = bytes(4096)
        try:
            while True:
                file.write(block)
        except OSError:
            pass
    yield
    filler.unlink()


@contextmanager
def small_disk() -> Iterator[Path]:
    """A small disk of PostgreSQL's account; the test is skipped where none can be mounted."""
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # pytest's own folders are not open to that account
        yield from _mounted(Path(folder))


def _mounted(folder: Path) -> Iterator[Path]:
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root only, and not in every container")
    try:
        tables = folder / "tables"
        tables.mkdir(mode=0o700)
        owner = pwd.getpwnam(PrivatePostgres.account_name)
        os.chown(tables, owner.pw_uid, owner.pw_gid)
        folder.chmod(0o755)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def move_to(server: PrivatePostgres, disk: Path, database: str) -> None:
    """Have a database on a disk. Nobody may be connected to it."""
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"CREATE TABLESPACE {database} LOCATION '{disk / 'tables'}'")
        await asyncio.wait_for(
            connection.execute(f"ALTER DATABASE {database} SET TABLESPACE {database}"), 30
        )
    finally:
        await connection.close()
