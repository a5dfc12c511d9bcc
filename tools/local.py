"""Chorus as processes of this machine: private servers, the services, and a mailbox that catches the letters."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from apps import SERVICES
from tools.children import CannotRun, Child, ChildFailed
from tools.console import phase
from tools.servers import PrivatePostgres, PrivateRabbitMQ, running
from tools.servers.folders import run_folder
from tools.servers.install import Server, install_missing
from tools.servers.ports import private_port
from tools.system import (
    USUAL_PORTS,
    Addresses,
    Login,
    choose_ports,
    new_password,
    operator_login,
)

_DATABASES = [f"CHORUS_DATABASE_URL_{service.upper()}" for service in SERVICES]
_BROKERS = [f"CHORUS_AMQP_URL_{service.upper()}" for service in SERVICES]


class LocalSystem:
    """The services and the mailbox as children of this process."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._ports = choose_ports(USUAL_PORTS)
        self._smtp_port = private_port()
        self._operator = operator_login()
        self.parts = {name: self._service(name) for name in SERVICES}
        self.parts["mail"] = self._child(
            "mail", ["mailbox", f"--smtp-port={self._smtp_port}", f"--http-port={self._ports['mail']}"]
        )  # fmt: skip
        self.addresses = self._addresses()

    def _service(self, name: str) -> Child:
        own = {
            "CHORUS_SMTP_HOST": "127.0.0.1",
            "CHORUS_SMTP_PORT": str(self._smtp_port),
            "CHORUS_OPERATOR_EMAIL": self._operator.name,
            "CHORUS_OPERATOR_PASSWORD": self._operator.password,
        }
        return self._child(name, ["serve", name, f"--port={self._ports[name]}"], own)

    def _child(
        self, name: str, arguments: list[str], own: Mapping[str, str] | None = None
    ) -> Child:
        return Child(
            name,
            [sys.executable, "-m", "ops", *arguments],
            log=self._folder / f"{name}.log",
            environment={**self._environment, **(own or {})},
        )

    def _addresses(self) -> Addresses:
        urls = {name: f"http://127.0.0.1:{port}" for name, port in self._ports.items()}
        api = urlsplit(self._environment.get("CHORUS_RABBITMQ_API_URL", ""))
        return Addresses(
            services={name: urls[name] for name in SERVICES},
            mail=urls["mail"],
            operator=self._operator,
            rabbitmq=f"{api.scheme}://{api.hostname}:{api.port}" if api.hostname else None,
            rabbitmq_login=Login(api.username, api.password or "") if api.username else None,
        )

    def migrate(self) -> None:
        child = self._child("migrate", ["migrate"])
        try:
            child.start()
            child.finish(within=120)
        finally:
            child.kill()

    def start(self) -> None:
        for part in self.parts.values():
            part.start()
        urls = {name: f"{url}/ready" for name, url in self.addresses.services.items()}
        urls["mail"] = f"{self.addresses.mail}/healthz"
        with httpx.Client(timeout=5, trust_env=False) as http:
            for name, url in urls.items():
                self.parts[name].wait_until(partial(self._answers, http, url), within=60)

    def _answers(self, http: httpx.Client, url: str) -> bool:
        """Whether a part answers. Raises ChildFailed as soon as any of them has ended."""
        for part in self.parts.values():
            if not part.running:
                raise ChildFailed(
                    f"{part.name} ended with status {part.exit_status}\n{part.tail()}"
                )
        try:
            return http.get(url).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        for part in self.parts.values():
            part.ask_to_stop()
        for part in self.parts.values():
            part.stop(within=15)

    def log(self, part: str) -> str:
        return self.parts[part].tail() if part in self.parts else ""

    def ended(self) -> str | None:
        return next((name for name, part in self.parts.items() if not part.running), None)


@contextmanager
def run_locally() -> Iterator[LocalSystem]:
    """Everything from nothing; servers that CHORUS_AMQP_URL and CHORUS_DATABASE_URL_* name are used as they are."""
    given_database, given_broker = _given_database(), _given_broker()
    missing: list[Server] = []
    missing += [] if given_database else ["postgresql"]
    missing += [] if given_broker else ["rabbitmq"]
    install_missing(*missing)
    with run_folder() as folder, ExitStack() as cleanup:
        # All mail goes to the mailbox, whatever mail server the environment names.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_SMTP_")}
        postgres = None if given_database else PrivatePostgres(folder)
        rabbitmq = None if given_broker else PrivateRabbitMQ(folder)
        private = [server for server in (rabbitmq, postgres) if server is not None]
        if private:
            with phase("Starting PostgreSQL and RabbitMQ", "private servers run"):
                cleanup.enter_context(running(*private))
        if postgres is not None:
            environment.update(_databases_of(postgres))
        if rabbitmq is not None:
            environment.update(_brokers_of(rabbitmq))
        system = LocalSystem(folder, environment)
        cleanup.callback(system.stop)
        if _may_migrate(environment):
            with phase("Making databases and queues", "databases and queues are made"):
                system.migrate()
        with phase("Starting the services", f"{len(SERVICES)} services and a mailbox run"):
            system.start()
        yield system


def _given_database() -> bool:
    given = [name for name in _DATABASES if os.environ.get(name)]
    if given and len(given) < len(_DATABASES):
        raise CannotRun(
            f"{', '.join(given)} is set: then all of {', '.join(_DATABASES)} are needed"
        )
    return bool(given)


def _given_broker() -> bool:
    given = [name for name in _BROKERS if os.environ.get(name)]
    if given and len(given) < len(_BROKERS) and not os.environ.get("CHORUS_AMQP_URL"):
        raise CannotRun(f"{', '.join(given)} is set: then CHORUS_AMQP_URL is needed for the others")
    return bool(given or os.environ.get("CHORUS_AMQP_URL"))


def _may_migrate(environment: Mapping[str, str]) -> bool:
    """Whether there is something to prepare; with servers from outside that may have been done by somebody else."""
    wanted = ("CHORUS_DATABASE_ADMIN_URL", "CHORUS_RABBITMQ_API_URL")
    missing = [name for name in wanted if not environment.get(name)]
    if len(missing) == 1:
        raise CannotRun(f"{missing[0]} is not set: it is needed to prepare that server")
    return not missing


def _databases_of(postgres: PrivatePostgres) -> dict[str, str]:
    urls = {"CHORUS_DATABASE_ADMIN_URL": postgres.url}
    for service, name in zip(SERVICES, _DATABASES, strict=True):
        login = f"{service}:{new_password()}"
        urls[name] = f"postgresql://{login}@127.0.0.1:{postgres.port}/{service}"
    return urls


def _brokers_of(rabbitmq: PrivateRabbitMQ) -> dict[str, str]:
    urls = {"CHORUS_RABBITMQ_API_URL": rabbitmq.api_url}
    for service, name in zip(SERVICES, _BROKERS, strict=True):
        urls[name] = f"amqp://{service}:{new_password()}@127.0.0.1:{rabbitmq.port}/chorus"
    return urls
