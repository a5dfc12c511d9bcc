"""Private PostgreSQL and RabbitMQ for machines without Docker: own ports on 127.0.0.1, own data, gone at the end.

    with private_servers() as servers:
        servers.postgres.url, servers.rabbitmq.amqp_url, servers.rabbitmq.api_url

They are the system's own programs, installed when missing (``install.py``), and share nothing with a
server that the system runs itself.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.servers.folders import run_folder
from tools.servers.install import install_missing
from tools.servers.postgres import PrivatePostgres
from tools.servers.rabbitmq import PrivateRabbitMQ

__all__ = [
    "PrivatePostgres",
    "PrivateRabbitMQ",
    "PrivateServers",
    "private_postgres",
    "private_rabbitmq",
    "private_servers",
    "running",
]


@dataclass(frozen=True)
class PrivateServers:
    folder: Path
    postgres: PrivatePostgres
    rabbitmq: PrivateRabbitMQ


@contextmanager
def private_servers(base: Path | None = None) -> Iterator[PrivateServers]:
    """Both, in a fresh folder below `base` (the project's .chorus by default)."""
    install_missing("postgresql", "rabbitmq")
    with run_folder(base) as folder:
        servers = PrivateServers(folder, PrivatePostgres(folder), PrivateRabbitMQ(folder))
        with running(servers.rabbitmq, servers.postgres):
            yield servers


@contextmanager
def private_postgres(base: Path | None = None) -> Iterator[PrivatePostgres]:
    install_missing("postgresql")
    with run_folder(base) as folder:
        server = PrivatePostgres(folder)
        with running(server):
            yield server


@contextmanager
def private_rabbitmq(base: Path | None = None) -> Iterator[PrivateRabbitMQ]:
    install_missing("rabbitmq")
    with run_folder(base) as folder:
        server = PrivateRabbitMQ(folder)
        with running(server):
            yield server


@contextmanager
def running(*servers: PrivatePostgres | PrivateRabbitMQ) -> Iterator[None]:
    """Starts them side by side, and ends them with their data."""
    with ExitStack() as cleanup:
        for server in servers:
            cleanup.callback(server.discard)
            server.launch()
        for server in servers:
            server.wait()
        yield
