"""What the commands share: the terminal that they write to, and the check of a service's name."""

from typing import Final

import typer
from rich.console import Console

from apps import SERVICES

console: Final = Console(highlight=False, soft_wrap=True)


def service_name(name: str) -> str:
    """The name of a service, as given on the command line. Raises typer.BadParameter."""
    if name not in SERVICES:
        raise typer.BadParameter(f"there is no service {name!r}; there are {', '.join(SERVICES)}")
    return name
