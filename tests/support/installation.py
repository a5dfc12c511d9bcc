"""A complete Chorus of its own on the tests' servers: databases, vhost and logins, made as `chorus migrate` does."""

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from apps import SERVICES
from chassis.runtime.settings import settings
from ops.audit.access import auditor_url, broker_auditor
from ops.management import Administration
from ops.migrate import create_database, grant_auditor, upgrade_database
from ops.subscriptions import TOPOLOGY
from tests.support.servers import Servers


@dataclass(frozen=True)
class Installation:
    """Where the services of one Chorus find their servers, and how an administrator enters.

    Databases, roles and broker users are called `<service>_<name>`, the vhost is called `<name>`.
    """

    name: str
    servers: Servers
    services: tuple[str, ...] = SERVICES
    password: str = field(default_factory=lambda: secrets.token_hex(12), repr=False)

    def login(self, service: str) -> str:
        """The role, the database and the broker user of a service."""
        return f"{service}_{self.name}"

    def database_url(self, service: str) -> str:
        """What the service connects to PostgreSQL with."""
        host = urlsplit(self.servers.database_admin_url).netloc.rpartition("@")[2]
        login = self.login(service)
        return f"postgresql://{login}:{self.password}@{host}/{login}"

    def auditor_url(self, service: str) -> str:
        """What the audit connects to the service's database with."""
        return auditor_url(self.database_url(service), self.password)

    def database_admin_url(self, service: str) -> str:
        """A superuser's way into the service's database."""
        url = urlsplit(self.servers.database_admin_url)
        return urlunsplit(url._replace(path=f"/{self.login(service)}"))

    def amqp_url(self, service: str) -> str:
        """What the service connects to RabbitMQ with."""
        return self.servers.amqp_url(self.login(service), self.password, self.name)

    @property
    def amqp_admin_url(self) -> str:
        """An administrator's way into the vhost."""
        return urlunsplit(urlsplit(self.servers.amqp_admin_url)._replace(path=f"/{self.name}"))

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a process that belongs to it."""
        urls = {
            "CHORUS_DATABASE_ADMIN_URL": self.servers.database_admin_url,
            "CHORUS_RABBITMQ_API_URL": self.servers.rabbitmq_api_url,
            "CHORUS_AUDITOR_PASSWORD": self.password,
        }
        for service in self.services:
            urls[f"CHORUS_DATABASE_URL_{service.upper()}"] = self.database_url(service)
            urls[f"CHORUS_AMQP_URL_{service.upper()}"] = self.amqp_url(service)
        return urls


async def install(
    servers: Servers, name: str, services: tuple[str, ...] = SERVICES
) -> Installation:
    """Make the databases, tables, logins and the vhost with its whole topology."""
    made = Installation(name, servers, services)
    await asyncio.gather(install_databases(made), asyncio.to_thread(_topology, made))
    return made


async def install_databases(made: Installation) -> None:
    """Make the databases, tables and logins only."""
    admin_url = made.servers.database_admin_url
    for service in made.services:
        await create_database(admin_url, made.database_url(service))
        # Alembic's environment starts an event loop of its own.
        url = made.database_url(service)
        await asyncio.to_thread(upgrade_database, admin_url, service, url)
        await grant_auditor(admin_url, service, url, made.password)


def _topology(made: Installation) -> None:
    with Administration(made.servers.rabbitmq_api_url) as broker:
        broker.apply(TOPOLOGY, {service: made.amqp_url(service) for service in made.services})
        broker.create_monitoring_user(made.name, broker_auditor(made.name), made.password)


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the services of this process; the settings are read again."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    settings.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        settings.cache_clear()
