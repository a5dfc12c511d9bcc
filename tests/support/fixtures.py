"""Fixtures of everything that needs servers; the conftest of each such folder imports them by name."""

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from apps import SERVICES
from tests.support.forked import ForkedService
from tests.support.harness import RunningService
from tests.support.installation import Installation, install
from tests.support.mail import MailSink
from tests.support.processes import Processes
from tests.support.servers import Servers
from tools.children import CannotRun
from tools.servers import PrivateRabbitMQ, private_server

__all__ = [
    "Install",
    "Run",
    "billing",
    "install_chorus",
    "mail",
    "module_processes",
    "notifications",
    "orders",
    "own_broker",
    "processes",
    "rabbitmq",
    "running_service",
    "users",
    "worker",
]

Install = Callable[..., Awaitable[Installation]]
"""Makes another Chorus on the tests' servers: `await install_chorus("name", "billing", "orders")`."""

Run = Callable[..., Awaitable[RunningService]]
"""Starts a service: `await running_service("notifications")`."""


@pytest.fixture(scope="session")
def worker(request: pytest.FixtureRequest) -> str:
    """The name of this process among those that pytest-xdist runs."""
    given: dict[str, str] = getattr(request.config, "workerinput", {"workerid": "main"})
    return given["workerid"]


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[PrivateRabbitMQ]:
    """A module's own broker, for what affects all connections."""
    try:
        with private_server(PrivateRabbitMQ) as made:
            yield made
    except CannotRun as missing:
        pytest.skip(f"RabbitMQ as a process is needed: {missing}")


@pytest.fixture(scope="module")
def own_broker(servers: Servers, rabbitmq: PrivateRabbitMQ) -> Servers:
    """The tests' servers with that broker."""
    return replace(
        servers, rabbitmq_api_url=rabbitmq.api_url, amqp_host="127.0.0.1", amqp_port=rabbitmq.port
    )


@pytest.fixture(scope="session")
async def install_chorus(servers: Servers, worker: str) -> Install:
    """Installations by name, each made once per process, so a name is one file's; all services if none is named."""
    made: dict[str, Installation] = {}

    async def chorus(name: str, *services: str) -> Installation:
        if name not in made:
            made[name] = await install(servers, f"{name}_{worker}", services or SERVICES)
        return made[name]

    return chorus


@pytest.fixture(scope="session")
async def mail() -> AsyncIterator[MailSink]:
    """Where the e-mails of `notifications` arrive."""
    sink = MailSink()
    await sink.open()
    yield sink
    await sink.close()


@pytest.fixture(scope="session")
async def running_service(install_chorus: Install, mail: MailSink) -> AsyncIterator[Run]:
    """Services in this process by name, each started once, with a vhost and a database to itself.

    The first test that needs notifications starts it for all: its e-mails always arrive in `mail`.
    """
    running: dict[str, RunningService] = {}
    async with AsyncExitStack() as stack:

        async def run(name: str) -> RunningService:
            if name not in running:
                app = importlib.import_module(f"apps.{name}.main").app
                service = RunningService(name, app, await install_chorus(f"only_{name}", name))
                settings = {"CHORUS_SMTP_PORT": str(mail.port)}
                running[name] = await stack.enter_async_context(service.running(settings))
            return running[name]

        yield run


@pytest.fixture
async def users(running_service: Run) -> AsyncIterator[RunningService]:
    async with (await running_service("users")).observed() as service:
        yield service


@pytest.fixture
async def billing(running_service: Run) -> AsyncIterator[RunningService]:
    async with (await running_service("billing")).observed() as service:
        yield service


@pytest.fixture
async def orders(running_service: Run) -> AsyncIterator[RunningService]:
    async with (await running_service("orders")).observed() as service:
        yield service


@pytest.fixture
async def notifications(running_service: Run) -> AsyncIterator[RunningService]:
    async with (await running_service("notifications")).observed() as service:
        yield service


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    """Services as real processes, for one test."""
    made = Processes(tmp_path, ForkedService)
    yield made
    await made.stop()


@pytest.fixture(scope="module")
async def module_processes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Processes]:
    """Services as real processes, for all tests of a file."""
    made = Processes(tmp_path_factory.mktemp("processes"), ForkedService)
    yield made
    await made.stop()
