"""`chorus up`: everything runs, in containers or as processes, until Ctrl-C."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ops.console import console
from tools.children import CannotRun
from tools.docker import docker_answers, run_in_docker
from tools.local import run_locally
from tools.system import System, show_addresses

Mode = Literal["docker", "native"]
_GIVEN = ("CHORUS_AMQP_URL", "CHORUS_DATABASE_URL_")


def choose_mode(*, docker: bool, native: bool) -> Mode:
    """What was asked for; else containers where Docker answers and no servers are given by the environment."""
    if docker and native:
        raise CannotRun("--docker or --native, not both")
    if docker and not docker_answers():
        raise CannotRun("--docker was asked for, but no Docker engine with compose answers here")
    given = any(name.startswith(_GIVEN) and value for name, value in os.environ.items())
    return "docker" if docker or (not native and not given and docker_answers()) else "native"


@contextmanager
def running_system(mode: Mode) -> Iterator[System]:
    console.print(
        f"\n[bold]Chorus[/] starts {'in containers' if mode == 'docker' else 'as processes'}."
    )
    with run_in_docker() if mode == "docker" else run_locally() as system:
        yield system


def stay(system: System) -> None:
    """Returns at Ctrl-C; raises CannotRun if a part of the system ends before."""
    console.print("\n  Ctrl-C stops everything.\n")
    try:
        while (ended := system.ended()) is None:
            time.sleep(5)
    except KeyboardInterrupt:
        console.print("\n  Stopping.")
        return
    raise CannotRun(f"{ended} has ended.\n{system.log(ended)}")


def up(*, docker: bool, native: bool) -> None:
    with running_system(choose_mode(docker=docker, native=native)) as system:
        console.print()
        show_addresses(system.addresses)
        stay(system)
