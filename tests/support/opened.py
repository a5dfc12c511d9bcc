"""A service's database without its service: opened as the service does, and as an administrator."""

import contextlib
from collections.abc import AsyncIterator

import asyncpg

from chassis.database.pool import Database
from chassis.database.transaction import Pool
from tests.support.installation import Installation


@contextlib.asynccontextmanager
async def opened(
    chorus: Installation, service: str, *, size: int = 1
) -> AsyncIterator[tuple[Database, Pool]]:
    """The service's own way in, with so many connections, and an administrator's."""
    database = Database(chorus.database_url(service), service, size=size)
    await database.open()
    try:
        async with asyncpg.create_pool(chorus.database_admin_url(service), min_size=1) as owner:
            yield database, owner
    finally:
        await database.close()
