"""`chorus migrate`: creates databases, roles, tables, topology and broker users. Running it again changes nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import asyncpg
import typer
from alembic import command
from alembic.config import Config

import apps
import chassis.database
from apps import SERVICES
from chassis.database.addresses import arguments, login_of, of_database
from chassis.database.migrations import LOCK
from chassis.messaging.addresses import vhost_of
from chassis.runtime.settings import Settings, required
from ops.audit.access import auditor_url, broker_auditor, readable
from ops.management import Administration
from ops.subscriptions import TOPOLOGY

APPS = Path(apps.__file__).parent
MIGRATIONS = Path(chassis.database.__file__).parent / "migrations"

NEW_DATABASE: Final = "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
"""The same on every server, however it was initialised. Texts are compared by their bytes: the order of an index does
not change with the C library of another machine, to which a database is restored or replicated."""

OPEN_DATABASES: Final = "SELECT datname FROM pg_database WHERE datname IN ('postgres', 'template1')"
"""The databases of every server, to which everybody may connect at first."""

NO_LARGE_OBJECTS: Final = """
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer), pg_catalog.lo_create(oid), pg_catalog.lo_from_bytea(oid, bytea)
FROM PUBLIC
"""
"""A service has none; a login that may make some owns them, beside its tables."""


class EncodingError(LookupError):
    """A service's database has an encoding in which not every text can be stored."""


def migrate(config: Settings) -> None:
    """Prepare the databases, then the broker. Raises LookupError for a missing setting or another encoding."""
    admin_url = config.administrator_url()
    for service in SERVICES:
        url = config.database_url(service)
        asyncio.run(create_database(admin_url, url))
        upgrade_database(admin_url, service, url)
        if config.auditor_password is not None:
            password = config.auditor_password.get_secret_value()
            asyncio.run(grant_auditor(admin_url, service, url, password))
        typer.echo(f"{service}: database ready")
    apply_topology(config)
    typer.echo("broker: topology ready")


def quoted(name: str) -> str:
    """A name quoted as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def create_database(admin_url: str, service_url: str) -> None:
    """Create the role and the database that a service's URL names, and let only that role connect.

    Only superusers, and roles with a grant of their own, connect to the server's own databases from then on. Raises
    EncodingError, and changes nothing, if there is such a database and it is not UTF-8.
    """
    async with _administrator(admin_url) as connection:
        await _check_encoding(connection, login_of(service_url).database)
        role, database = await _create_role(connection, service_url)
        with contextlib.suppress(asyncpg.DuplicateDatabaseError):
            await connection.execute(f"CREATE DATABASE {database} {NEW_DATABASE}")
        await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {role}")
        for shared in await connection.fetch(OPEN_DATABASES):
            await connection.execute(
                f"REVOKE CONNECT, TEMPORARY ON DATABASE {quoted(shared['datname'])} FROM PUBLIC"
            )
    async with _administrator(of_database(admin_url, service_url)) as connection:
        await connection.execute(NO_LARGE_OBJECTS)


async def _check_encoding(connection: asyncpg.Connection, database: str) -> None:
    sql = "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = $1"
    encoding = await connection.fetchval(sql, database)
    if encoding not in (None, "UTF8"):
        raise EncodingError(
            f"the database {database} has the encoding {encoding} instead of UTF8, and cannot store every"
            " name: use another one, or make it again from template0 with ENCODING 'UTF8'"
        )


async def grant_auditor(admin_url: str, service: str, service_url: str, password: str) -> None:
    """Create the read-only role of `chorus audit` for a service's database, whose tables must exist."""
    async with _administrator(admin_url) as connection:
        role, database = await _create_role(connection, auditor_url(service_url, password))
        await connection.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {role}")
    async with _administrator(of_database(admin_url, service_url)) as connection:
        for table, columns in readable(service).items():
            await connection.execute(f"GRANT SELECT {columns} ON {table} TO {role}")


@contextlib.asynccontextmanager
async def _administrator(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection with the lock, so that concurrent migrations wait for each other."""
    connection = await asyncpg.connect(**arguments(url))
    try:
        await connection.execute(LOCK)
        yield connection
    finally:
        await connection.close()


async def _create_role(connection: asyncpg.Connection, url: str) -> tuple[str, str]:
    """Create the role that a URL names, with its password. Returns the role and the URL's database, both quoted."""
    login = login_of(url)
    role, secret = quoted(login.user), login.password.replace("'", "''")
    with contextlib.suppress(asyncpg.DuplicateObjectError):
        await connection.execute(f"CREATE ROLE {role} LOGIN")
    await connection.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{secret}'")
    return role, quoted(login.database)


def upgrade_database(admin_url: str, service: str, service_url: str) -> None:
    """Run the service's migrations as the database's owner. Blocks, and must not run inside an event loop."""
    options = {
        "script_location": str(MIGRATIONS),
        "version_locations": str(APPS / service / "migrations"),
        "path_separator": "newline",
        "role": login_of(service_url).user,
    }
    connect = partial(asyncpg.connect, **arguments(of_database(admin_url, service_url)))
    config = Config(attributes={"configure_logger": False, "connect": connect})
    for name, value in options.items():
        config.set_main_option(name, value.replace("%", "%%"))
    command.upgrade(config, "head")


def apply_topology(config: Settings) -> None:
    """Create the vhost, exchanges, queues, bindings, users and permissions. Raises LookupError without an API URL."""
    users = {service: config.broker_url(service) for service in SERVICES}
    with Administration(required("CHORUS_RABBITMQ_API_URL")) as broker:
        broker.apply(TOPOLOGY, users)
        if config.auditor_password is not None:
            password = config.auditor_password.get_secret_value()
            for vhost in {vhost_of(url) for url in users.values()}:
                broker.create_monitoring_user(vhost, broker_auditor(vhost), password)
