"""PostgreSQL and RabbitMQ for the tests, once per run: in containers where Docker answers, else private processes.

CHORUS_TESTS_SERVERS=docker|native forces one way; CHORUS_TESTS_REQUIRE_DOCKER=1 makes a missing Docker an error.
"""

import gc
import os
import secrets
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from tools.servers import private_servers

if TYPE_CHECKING:
    from docker import DockerClient
    from testcontainers.core.container import DockerContainer

_OWNER = "chorus.tests.owner"  # label: the process that a container belongs to


@dataclass(frozen=True)
class Servers:
    """Where the servers answer, and how an administrator enters."""

    kind: str
    database_admin_url: str
    rabbitmq_api_url: str
    amqp_host: str
    amqp_port: int

    def amqp_url(self, user: str, password: str, vhost: str = "%2F") -> str:
        return f"amqp://{user}:{password}@{self.amqp_host}:{self.amqp_port}/{vhost}"

    @property
    def amqp_admin_url(self) -> str:
        administrator = urlsplit(self.rabbitmq_api_url)
        return self.amqp_url(administrator.username or "", administrator.password or "")


@contextmanager
def running_servers() -> Iterator[Servers]:
    with _in_containers() if _use_docker() else _as_processes() as servers:
        yield servers


def _use_docker() -> bool:
    command = os.environ.get("CHORUS_TESTS_SERVERS", "")
    if command not in ("", "docker", "native"):
        raise RuntimeError(
            f"CHORUS_TESTS_SERVERS is docker, native or not set, and not {command!r}"
        )
    required = command == "docker" or os.environ.get("CHORUS_TESTS_REQUIRE_DOCKER") == "1"
    if required and command == "native":
        raise RuntimeError("CHORUS_TESTS_REQUIRE_DOCKER=1 contradicts CHORUS_TESTS_SERVERS=native")
    if command == "native":
        return False
    error = docker_error()
    if error and required:
        raise RuntimeError(
            f"These tests must run in containers, and Docker does not answer: {error}"
        )
    return error is None


def docker_error() -> str | None:
    """Why no Docker engine answers, or None if one does."""
    import docker

    with warnings.catch_warnings():
        # docker-py never closes the socket of a refused connection. It is collected here, where that warns nobody.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(docker.from_env(timeout=5)) as client:
                client.ping()
        except docker.errors.DockerException as error:
            return str(error)
        finally:
            gc.collect()
    return None


@contextmanager
def _as_processes() -> Iterator[Servers]:
    with private_servers() as private:
        yield Servers(
            "native", private.postgres.url, private.rabbitmq.api_url, "127.0.0.1", private.rabbitmq.port
        )  # fmt: skip


@contextmanager
def _in_containers() -> Iterator[Servers]:
    # Read when testcontainers is imported. Its helper image that removes what is left is not needed: we do that.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
    import docker

    with warnings.catch_warnings():  # it warns of its own decorator
        warnings.simplefilter("ignore", DeprecationWarning)
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.community.rabbitmq import RabbitMqContainer

    _remove_what_dead_runs_left(docker.from_env())
    password = secrets.token_hex(12)
    postgres = PostgresContainer(
        "postgres:17-alpine", username="postgres", password=password, dbname="postgres"
    )
    postgres.with_command("postgres -c max_connections=300")
    rabbitmq = RabbitMqContainer("rabbitmq:4-management", username="admin", password=password)
    rabbitmq.with_exposed_ports(rabbitmq.port, 15672)
    with ExitStack() as cleanup:
        _start_side_by_side(cleanup, postgres, rabbitmq)
        host = _address(rabbitmq.get_container_host_ip())
        api_url = f"http://admin:{password}@{host}:{rabbitmq.get_exposed_port(15672)}"
        _wait_for_api(api_url)
        yield Servers(
            "docker",
            f"postgresql://postgres:{password}@{host}:{postgres.get_exposed_port(postgres.port)}/postgres",
            api_url,
            host,
            rabbitmq.get_exposed_port(rabbitmq.port),
        )


def _start_side_by_side(cleanup: ExitStack, *containers: "DockerContainer") -> None:
    for container in containers:
        container.with_kwargs(labels={_OWNER: str(os.getpid())})
        cleanup.callback(container.stop)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda container: container.start(), containers))


def _address(host: str) -> str:
    # Ports are published for IPv4; "localhost" may mean something else first.
    return "127.0.0.1" if host == "localhost" else host


def _remove_what_dead_runs_left(engine: "DockerClient") -> None:
    for container in engine.containers.list(all=True, filters={"label": _OWNER}):
        if not Path("/proc", container.labels[_OWNER]).exists():
            container.remove(force=True, v=True)


def _wait_for_api(url: str, *, within: float = 30) -> None:
    deadline = time.monotonic() + within
    with httpx.Client(timeout=2, trust_env=False) as http:
        while True:
            try:
                http.get(f"{url}/api/overview").raise_for_status()
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return
