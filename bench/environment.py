"""The environment of the contestants: one PostgreSQL and one RabbitMQ, with databases and a vhost for each.

One contestant runs at a time. After it, VACUUM and CHECKPOINT complete its work in the servers.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx

from apps import SERVICES
from bench.contestants import Contestant
from ops.management import Administration
from ops.migrate import create_database, upgrade_database
from ops.subscriptions import TOPOLOGY
from tools.servers import PrivateServers, private_servers


@dataclass(frozen=True)
class Installation:
    """The databases and the vhost of one contestant. Databases, roles and broker users are `<service>_<name>`."""

    name: str
    servers: PrivateServers
    password: str
    own_topology: bool

    def login(self, service: str) -> str:
        """The role, the database and the broker user of a service."""
        return f"{service}_{self.name}"

    def database_url(self, service: str) -> str:
        """The URL with which a service connects to PostgreSQL."""
        login = self.login(service)
        return (
            f"postgresql://{login}:{self.password}@127.0.0.1:{self.servers.postgres.port}/{login}"
        )

    def admin_url(self, service: str) -> str:
        """The URL with which a superuser connects to the database of a service."""
        return urlunsplit(
            urlsplit(self.servers.postgres.url)._replace(path=f"/{self.login(service)}")
        )

    def amqp_url(self, service: str) -> str:
        """The URL with which a service connects to RabbitMQ."""
        rabbitmq = self.servers.rabbitmq
        if self.own_topology:
            return (
                f"amqp://{rabbitmq.user}:{rabbitmq.password}@127.0.0.1:{rabbitmq.port}/{self.name}"
            )
        return f"amqp://{self.login(service)}:{self.password}@127.0.0.1:{rabbitmq.port}/{self.name}"

    def environment_variables(self) -> dict[str, str]:
        """The environment variables with the servers of its services."""
        # Baselines create their own tables and queues at start.
        urls = {"CHORUS_DATABASE_ADMIN_URL": self.servers.postgres.url} if self.own_topology else {}
        for service in SERVICES:
            urls[f"CHORUS_DATABASE_URL_{service.upper()}"] = self.database_url(service)
            urls[f"CHORUS_AMQP_URL_{service.upper()}"] = self.amqp_url(service)
        return urls

    @asynccontextmanager
    async def databases(self) -> AsyncIterator[Mapping[str, asyncpg.Connection]]:
        """A superuser's connection to the database of each service."""
        opened: dict[str, asyncpg.Connection] = {}
        try:
            for service in SERVICES:
                opened[service] = await asyncpg.connect(self.admin_url(service))
            yield opened
        finally:
            for connection in opened.values():
                await connection.close()


class Environment:
    """The servers, and the installations on them."""

    def __init__(self, servers: PrivateServers) -> None:
        self.servers = servers
        self._installed: dict[str, Installation] = {}

    @property
    def folder(self) -> Path:
        """The folder for logs."""
        return self.servers.folder

    @property
    def roots(self) -> dict[str, int]:
        """The process ids of the servers."""
        postgres, rabbitmq = self.servers.postgres, self.servers.rabbitmq
        return {"postgres": postgres.process.pid, "rabbitmq": rabbitmq.process.pid}

    async def install(self, contestant: Contestant, name: str = "") -> Installation:
        """Create the databases, tables, logins and the vhost, once. Another `name` gives another installation."""
        name = name or contestant.name
        if name not in self._installed:
            made = Installation(name, self.servers, secrets.token_hex(12), contestant.own_topology)
            if contestant.settles:
                await self._create_databases(made)
                await asyncio.to_thread(self._create_vhost, made)
            self._installed[name] = made
        return self._installed[name]

    async def _create_databases(self, made: Installation) -> None:
        admin_url = self.servers.postgres.url
        for service in SERVICES:
            own_url = made.database_url(service)
            await create_database(admin_url, own_url)
            # Alembic's environment starts an event loop of its own.
            await asyncio.to_thread(upgrade_database, admin_url, service, own_url)

    def _create_vhost(self, made: Installation) -> None:
        api_url = self.servers.rabbitmq.api_url
        if made.own_topology:
            httpx.put(
                f"{api_url}/api/vhosts/{made.name}", json={}, trust_env=False
            ).raise_for_status()
            return
        with Administration(api_url) as broker:
            broker.apply(TOPOLOGY, {service: made.amqp_url(service) for service in SERVICES})

    async def complete_work(self, installation: Installation) -> None:
        """Do now what the servers would do later, so that it does not slow down the next contestant."""
        async with installation.databases() as databases:
            for connection in databases.values():
                await connection.execute("VACUUM (ANALYZE)")
            await databases["users"].execute("CHECKPOINT")


@contextmanager
def start_servers() -> Iterator[Environment]:
    """Start the servers. At the end they are removed with their data."""
    with private_servers() as servers:
        asyncio.run(_track_commit_times(servers.postgres.url))
        servers.postgres.stop()
        servers.postgres.start()
        yield Environment(servers)


async def _track_commit_times(url: str) -> None:
    """Make PostgreSQL record when each transaction was committed."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    finally:
        await connection.close()
