"""What the commands share: the terminal that they write to, and the check of a service's name."""

from typing import Final

import typer
from rich.console import Console, RenderableType

from apps import SERVICES

console: Final = Console(highlight=False, soft_wrap=True)

UNLIMITED: Final = 10_000
"""Columns of a pipe or a file."""


def show(what: RenderableType) -> None:
    """Print a table or a tree: as wide as the terminal, or as its lines if it goes to a program."""
    Console(highlight=False, width=None if console.is_terminal else UNLIMITED).print(what)


def printable(text: str) -> str:
    """A text of a server or a client, which must not control the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def service_name(name: str) -> str:
    """The name of a service, as given on the command line. Raises typer.BadParameter."""
    if name not in SERVICES:
        raise typer.BadParameter(f"there is no service {name!r}; there are {', '.join(SERVICES)}")
    return name
