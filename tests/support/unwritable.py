"""A PostgreSQL of a test's own that can become read-only."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tests.support.eventually import eventually
from tools.servers import PrivatePostgres

READ_ONLY: Final = "default_transaction_read_only"


@asynccontextmanager
async def read_only(server: PrivatePostgres) -> AsyncIterator[None]:
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
