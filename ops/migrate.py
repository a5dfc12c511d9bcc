"""`chorus migrate`: creates databases, roles, tables, topology and broker users. Running it again changes nothing."""

import contextlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg
from alembic import command
from alembic.config import Config

import apps
import chassis.database
from chassis.runtime.settings import Settings
from ops.audit.rights import auditor_url, broker_auditor, grants
from ops.management import Administration, vhost_of
from ops.subscriptions import TOPOLOGY

APPS = Path(apps.__file__).parent


def quoted(name: str) -> str:
    """A name quoted as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def create_database(admin_url: str, service_url: str) -> None:
    """Create the role and the database that a service's URL names, and let only that role connect."""
    url = urlsplit(service_url)
    role, database = quoted(unquote(url.username or "")), quoted(url.path.lstrip("/"))
    connection = await asyncpg.connect(admin_url)
    try:
        # Concurrent migrations wait for each other.
        await connection.execute("SELECT pg_advisory_lock(4242001)")
        await _create_role(connection, role, unquote(url.password or ""))
        with contextlib.suppress(asyncpg.DuplicateDatabaseError):
            await connection.execute(f"CREATE DATABASE {database}")
        await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {role}")
    finally:
        await connection.close()


async def _create_role(connection: asyncpg.Connection, role: str, password: str) -> None:
    secret = password.replace("'", "''")
    with contextlib.suppress(asyncpg.DuplicateObjectError):
        await connection.execute(f"CREATE ROLE {role} LOGIN")
    await connection.execute(f"ALTER ROLE {role} PASSWORD '{secret}'")


async def grant_auditor(admin_url: str, service: str, service_url: str, password: str) -> None:
    """Create the read-only role of `chorus audit` for a service's database, whose tables must exist."""
    database = urlsplit(service_url).path
    login = urlsplit(auditor_url(service_url, password))
    role = quoted(unquote(login.username or ""))
    connection = await asyncpg.connect(urlunsplit(urlsplit(admin_url)._replace(path=database)))
    try:
        await connection.execute("SELECT pg_advisory_lock(4242001)")
        await _create_role(connection, role, password)
        await connection.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        await connection.execute(
            f"GRANT CONNECT ON DATABASE {quoted(database.lstrip('/'))} TO {role}"
        )
        for table, columns in grants(service):
            await connection.execute(f"GRANT SELECT {columns} ON {table} TO {role}")
    finally:
        await connection.close()


def upgrade_database(admin_url: str, service: str, service_url: str) -> None:
    """Run the service's migrations as the database's owner. Blocks, and must not run inside an event loop."""
    url = urlsplit(service_url)
    owner = urlunsplit(urlsplit(admin_url)._replace(scheme="postgresql+asyncpg", path=url.path))
    config = Config(attributes={"configure_logger": False})
    config.set_main_option(
        "script_location", str(Path(chassis.database.__file__).parent / "migrations")
    )
    config.set_main_option("version_locations", str(APPS / service / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("sqlalchemy.url", owner.replace("%", "%%"))
    config.set_main_option("role", unquote(url.username or "").replace("%", "%%"))
    command.upgrade(config, "head")


def apply_topology(settings: Settings, services: tuple[str, ...]) -> None:
    """Create the vhost, exchanges, queues, bindings, users and permissions. Raises LookupError without an API URL."""
    if settings.rabbitmq_api_url is None:
        raise LookupError("CHORUS_RABBITMQ_API_URL is not set; docs/settings.md lists the settings")
    users: dict[str, Any] = {service: settings.broker_url(service) for service in services}
    with Administration(settings.rabbitmq_api_url.get_secret_value()) as broker:
        broker.apply(TOPOLOGY, users)
        if settings.auditor_password is not None:
            for vhost in {vhost_of(url) for url in users.values()}:
                password = settings.auditor_password.get_secret_value()
                broker.create_monitoring_user(vhost, broker_auditor(vhost), password)
