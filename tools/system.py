"""A running Chorus, in containers or as processes: its addresses, its logs, and which part of it has ended."""

import os
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from apps import SERVICES
from ops.console import console
from tools.servers.ports import port_near

PORTS = {name: 8001 + place for place, name in enumerate(SERVICES)} | {"mail": 1080}


@dataclass(frozen=True)
class Login:
    name: str
    password: str

    def __str__(self) -> str:
        return f"login {self.name}, password {self.password}"


@dataclass(frozen=True)
class Addresses:
    """`services` by name. `rabbitmq` is the management page; None if the broker is not ours."""

    services: dict[str, str]
    mail: str
    operator: Login
    rabbitmq: str | None = None
    rabbitmq_login: Login | None = None

    def show(self) -> None:
        for name, url in self.services.items():
            _show(name, f"{url}/docs", f"{url}/asyncapi")
        _show("mail", self.mail, "every e-mail that was sent")
        if self.rabbitmq and self.rabbitmq_login:
            _show("RabbitMQ", self.rabbitmq, str(self.rabbitmq_login))
        _show("operator", f"{self.services['users']}/user/login", str(self.operator))


def _show(name: str, url: str, note: str) -> None:
    console.print(f"  [bold]{name:<14}[/] {url:<33} {escape(note)}")


class System(ABC):
    """The services, a mail server that keeps all e-mails, and the servers they use."""

    addresses: Addresses

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self._folder = folder
        self._ports = {name: _free_port(name, port) for name, port in ports.items()}
        defaults = {
            "CHORUS_OPERATOR_EMAIL": "operator@chorus.test",
            "CHORUS_OPERATOR_PASSWORD": new_password(),
        }
        self._operator = {name: os.environ.get(name) or usual for name, usual in defaults.items()}
        urls = {name: f"http://127.0.0.1:{port}" for name, port in self._ports.items()}
        services = {name: urls[name] for name in SERVICES}
        self.addresses = Addresses(services, urls["mail"], Login(*self._operator.values()))

    @abstractmethod
    def log(self, part: str) -> str:
        """The end of the log of a part."""

    @abstractmethod
    def ended(self) -> str | None:
        """The name of a part that has ended, or None."""


def _free_port(name: str, usual: int) -> int:
    port = port_near(usual)
    if port != usual:
        console.print(f"  [yellow]![/] port {usual} is in use: {name} answers on {port}")
    return port


def new_password() -> str:
    return secrets.token_hex(6)
