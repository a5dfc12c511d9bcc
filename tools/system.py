"""A running Chorus, wherever its parts run: what it answers at, and what to look at when something fails."""

import os
import secrets
from dataclasses import dataclass
from typing import Protocol

from rich.markup import escape

from apps import SERVICES
from ops.console import console
from tools.servers.ports import port_near

USUAL_PORTS = {name: 8001 + place for place, name in enumerate(SERVICES)} | {"mail": 1080}


@dataclass(frozen=True)
class Login:
    name: str
    password: str


@dataclass(frozen=True)
class Addresses:
    """`services` by name; `rabbitmq` is the management page, None if it is not ours to show."""

    services: dict[str, str]
    mail: str
    operator: Login
    rabbitmq: str | None = None
    rabbitmq_login: Login | None = None


class System(Protocol):
    """Everything that was started, and may have ended since."""

    @property
    def addresses(self) -> Addresses: ...

    def log(self, part: str) -> str:
        """The end of a part's log."""
        ...

    def ended(self) -> str | None:
        """The name of a part that runs no more, or None."""
        ...


def choose_ports(usual: dict[str, int]) -> dict[str, int]:
    """The usual ports, or free ones near them: that is said."""
    chosen = {}
    for name, port in usual.items():
        chosen[name] = port_near(port)
        if chosen[name] != port:
            console.print(f"  [yellow]![/] port {port} is busy: {name} answers on {chosen[name]}")
    return chosen


def operator_login() -> Login:
    """The first operator's: as the environment wishes, else with a new password."""
    name = os.environ.get("CHORUS_OPERATOR_EMAIL") or "operator@chorus.test"
    return Login(name, os.environ.get("CHORUS_OPERATOR_PASSWORD") or new_password())


def new_password() -> str:
    return secrets.token_hex(6)


def show_addresses(addresses: Addresses) -> None:
    for name, url in addresses.services.items():
        _row(name, f"{url}/docs", f"{url}/asyncapi")
    _row("mail", addresses.mail, "every letter that was sent")
    if addresses.rabbitmq is not None and addresses.rabbitmq_login is not None:
        _row("RabbitMQ", addresses.rabbitmq, _login(addresses.rabbitmq_login))
    _row("operator", f"{addresses.services['users']}/user/login", _login(addresses.operator))


def _row(name: str, url: str, note: str) -> None:
    console.print(f"  [bold]{name:<14}[/] {url:<33} {escape(note)}")


def _login(login: Login) -> str:
    return f"login {login.name}, password {login.password}"
