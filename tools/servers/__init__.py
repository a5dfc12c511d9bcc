"""Private PostgreSQL and RabbitMQ for machines without Docker: own ports on 127.0.0.1, own data, removed at the end.

    with private_servers() as servers:
        servers.postgres.url, servers.rabbitmq.amqp_url, servers.rabbitmq.api_url

They run the programs of the system's packages, installed when missing (``install.py``), and share nothing with a server
that the system runs itself.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tools.servers.folders import run_folder
from tools.servers.install import install_missing
from tools.servers.postgres import PrivatePostgres
from tools.servers.rabbitmq import PrivateRabbitMQ
from tools.servers.server import PrivateServer

__all__ = ["PrivatePostgres", "PrivateRabbitMQ", "private_server", "private_servers", "running"]

S = TypeVar("S", bound=PrivateServer)


@dataclass(frozen=True)
class PrivateServers:
    folder: Path
    postgres: PrivatePostgres
    rabbitmq: PrivateRabbitMQ


@contextmanager
def private_servers() -> Iterator[PrivateServers]:
    """Both servers, with a new folder below .chorus."""
    install_missing(PrivatePostgres.package, PrivateRabbitMQ.package)
    with run_folder() as folder:
        servers = PrivateServers(folder, PrivatePostgres(folder), PrivateRabbitMQ(folder))
        with running(servers.rabbitmq, servers.postgres):
            yield servers


@contextmanager
def private_server(kind: type[S]) -> Iterator[S]:
    """One server: `PrivatePostgres` or `PrivateRabbitMQ`."""
    install_missing(kind.package)
    with run_folder() as folder:
        server = kind(folder)
        with running(server):
            yield server


@contextmanager
def running(*servers: PrivateServer) -> Iterator[None]:
    """Start the servers in parallel, and stop them at the end."""
    with ExitStack() as cleanup:
        for server in servers:
            cleanup.callback(server.discard)
            server.launch()
        for server in servers:
            server.wait()
        yield
