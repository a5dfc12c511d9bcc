"""Chorus as processes of this machine: private servers, the services, and a mailbox that keeps all e-mails."""

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from apps import SERVICES
from tools.children import CannotRun, Child
from tools.console import phase
from tools.servers import PrivatePostgres, PrivateRabbitMQ, running
from tools.servers.folders import run_folder
from tools.servers.install import install_missing
from tools.servers.ports import private_port
from tools.servers.server import PrivateServer
from tools.system import PORTS, Login, System, new_password

_DATABASES = {service: f"CHORUS_DATABASE_URL_{service.upper()}" for service in SERVICES}
_ADMINISTRATORS = ("CHORUS_DATABASE_ADMIN_URL", "CHORUS_RABBITMQ_API_URL")
_BROKERS = {service: f"CHORUS_AMQP_URL_{service.upper()}" for service in SERVICES}


class LocalSystem(System):
    """The services and the mailbox as children of this process."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder, PORTS)
        smtp_port = private_port()
        mail = {"CHORUS_SMTP_HOST": "127.0.0.1", "CHORUS_SMTP_PORT": str(smtp_port)}
        self._environment = {**environment, **mail, **self._operator}
        # No service has an administrator's login; each reads the management API with its own.
        own = {k: v for k, v in self._environment.items() if k not in _ADMINISTRATORS}
        api = urlsplit(environment.get("CHORUS_RABBITMQ_API_URL", ""))
        if api.hostname:
            login = Login(api.username, api.password or "") if api.username else None
            url = own["CHORUS_RABBITMQ_API_URL"] = api._replace(
                netloc=api.netloc.rpartition("@")[2]
            ).geturl()
            self.addresses = replace(self.addresses, rabbitmq=url, rabbitmq_login=login)
        self._parts = {
            name: self._child(own, name, "serve", name, f"--port={self._ports[name]}")
            for name in SERVICES
        }
        mailbox = (f"--smtp-port={smtp_port}", f"--http-port={self._ports['mail']}")
        self._parts["mail"] = self._child(own, "mail", "mailbox", *mailbox)

    def _child(self, environment: Mapping[str, str], name: str, *arguments: str) -> Child:
        return Child(
            name,
            [sys.executable, "-m", "ops", *arguments],
            log=self._folder / f"{name}.log",
            environment=environment,
        )

    def migrate(self) -> None:
        self._child(self._environment, "migrate", "migrate").run(within=120)

    def start(self) -> None:
        for part in self._parts.values():
            part.start()
        urls = {name: f"{url}/ready" for name, url in self.addresses.services.items()}
        urls["mail"] = f"{self.addresses.mail}/healthz"
        with httpx.Client(timeout=5, trust_env=False) as http:
            for name, url in urls.items():
                self._parts[name].wait_until(partial(self._answers, http, url), within=60)

    def _answers(self, http: httpx.Client, url: str) -> bool:
        """Whether a part answers. Raises ChildFailed as soon as any part has ended."""
        for part in self._parts.values():
            part.check()
        try:
            return http.get(url).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        for part in self._parts.values():
            part.ask_to_stop()
        for part in self._parts.values():
            part.stop(within=15)

    def log(self, part: str) -> str:
        return self._parts[part].tail()

    def ended(self) -> str | None:
        return next((name for name, part in self._parts.items() if not part.running), None)


@contextmanager
def run_locally() -> Iterator[LocalSystem]:
    """Start everything from nothing. Servers in CHORUS_AMQP_URL and CHORUS_DATABASE_URL_* are used as they are."""
    wanted: list[type[PrivateServer]] = []
    wanted += [] if _given(_BROKERS.values(), fallback="CHORUS_AMQP_URL") else [PrivateRabbitMQ]
    wanted += [] if _given(_DATABASES.values()) else [PrivatePostgres]
    install_missing(*(kind.package for kind in wanted))
    with run_folder() as folder, ExitStack() as cleanup:
        # All e-mails go to the mailbox, whatever mail server the environment names.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_SMTP_")}
        private = [kind(folder) for kind in wanted]
        if private:
            with phase("Starting PostgreSQL and RabbitMQ", "private servers run"):
                cleanup.enter_context(running(*private))
        for server in private:
            environment |= _urls_of(server)
        system = LocalSystem(folder, environment)
        cleanup.callback(system.stop)
        if _may_migrate(environment):
            with phase("Creating databases and queues", "databases and queues are created"):
                system.migrate()
        with phase("Starting the services", f"{len(SERVICES)} services and a mailbox run"):
            system.start()
        yield system


def _given(names: Collection[str], fallback: str = "") -> bool:
    """Whether the environment names a server. Raises CannotRun if it does so for some services only."""
    missing = [name for name in names if not os.environ.get(name)]
    if 0 < len(missing) < len(names) and not os.environ.get(fallback):
        raise CannotRun(f"{', '.join(missing)} must be set too, or none of {', '.join(names)}")
    return not missing or bool(os.environ.get(fallback))


def _may_migrate(environment: Mapping[str, str]) -> bool:
    """Whether databases and queues can be created. With given servers, that may have been done before."""
    missing = [name for name in _ADMINISTRATORS if not environment.get(name)]
    if len(missing) == 1:
        raise CannotRun(f"{missing[0]} is not set: it is needed to prepare that server")
    return not missing


def _urls_of(server: PrivateServer) -> dict[str, str]:
    """The settings of a private server: the administrator's URL, and a login of its own for each service."""
    logins = {name: f"{name}:{new_password()}@127.0.0.1:{server.port}" for name in SERVICES}
    if isinstance(server, PrivatePostgres):
        urls = {_DATABASES[name]: f"postgresql://{at}/{name}" for name, at in logins.items()}
        return {"CHORUS_DATABASE_ADMIN_URL": server.url, **urls}
    assert isinstance(server, PrivateRabbitMQ)
    urls = {_BROKERS[name]: f"amqp://{at}/chorus" for name, at in logins.items()}
    return {"CHORUS_RABBITMQ_API_URL": server.api_url, **urls}
