"""Read-only connections to the databases of all services, one each."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg

from chassis.database.addresses import arguments

PROGRAM: Final = "chorus-audit"
"""The name of these connections in `pg_stat_activity`."""

SERVER_SETTINGS: Final = {
    "application_name": PROGRAM,
    "default_transaction_read_only": "on",
    "statement_timeout": "600000",
    "lock_timeout": "10000",
    "plan_cache_mode": "force_custom_plan",
    "work_mem": "128MB",
    "jit": "off",
}
"""Times are milliseconds. Each statement is a transaction of its own: it sees one moment of its database, and holds no
lock and no snapshot longer."""

CONNECT_SECONDS: Final = 10.0


DRIVER_ERRORS: Final = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was cut in the middle of a reply
)


class DatabaseUnavailableError(Exception):
    """A database did not answer: whether the invariants hold is unknown."""


class Database:
    """One service's database."""

    def __init__(self, service: str, connection: asyncpg.Connection) -> None:
        self._service = service
        self._connection = connection
        self._one_at_a_time = asyncio.Lock()

    async def rows(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of a query. Raises DatabaseUnavailableError."""
        try:
            async with self._one_at_a_time:
                found: list[asyncpg.Record] = await self._connection.fetch(sql, *values)
                return found
        except DRIVER_ERRORS as error:
            raise DatabaseUnavailableError(f"{self._service}: {error}") from error

    async def value(self, sql: str, *values: Any) -> Any:
        """The one value that a query returns."""
        [[value]] = await self.rows(sql, *values)
        return value


Databases = Mapping[str, Database]


@asynccontextmanager
async def reading(urls: Mapping[str, str]) -> AsyncIterator[Databases]:
    """Connections by service. Raises DatabaseUnavailableError."""
    async with AsyncExitStack() as stack:
        opened: dict[str, Database] = {}
        for service, url in urls.items():
            try:
                connection = await asyncpg.connect(
                    **arguments(url), timeout=CONNECT_SECONDS, server_settings=SERVER_SETTINGS
                )
            except DRIVER_ERRORS as error:
                raise DatabaseUnavailableError(
                    f"{service}: {error or type(error).__name__}"
                ) from error
            stack.push_async_callback(_close, connection)
            opened[service] = Database(service, connection)
        yield opened


async def _close(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=CONNECT_SECONDS)
    except DRIVER_ERRORS:
        connection.terminate()
