"""`chorus up` and `chorus demo`: start everything, in containers or as processes, and run until Ctrl-C."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from ops.console import console
from tools.children import CannotRun
from tools.console import reported_plainly
from tools.docker import docker_answers, run_in_docker
from tools.local import run_locally
from tools.story import Story, StoryFailed
from tools.system import System

_GIVEN = ("CHORUS_AMQP_URL", "CHORUS_DATABASE_URL_")


@reported_plainly()
def up(*, docker: bool, native: bool) -> None:
    """Start everything and run until Ctrl-C."""
    with _running_system(docker=docker, native=native) as system:
        console.print()
        system.addresses.show()
        _wait_for_ctrl_c(system)


@reported_plainly()
def demo(*, leave: bool, docker: bool, native: bool) -> None:
    """Play the story over the public HTTP API, then run until Ctrl-C unless `leave`."""
    with _running_system(docker=docker, native=native) as system:
        try:
            with closing(Story(system.addresses)) as story:
                story.play()
        except StoryFailed as failure:
            raise CannotRun(f"{failure}\n{system.log(failure.part)}") from None
        console.print("\n  [bold green]Every step of the story succeeded.[/]\n")
        system.addresses.show()
        if not leave:
            _wait_for_ctrl_c(system)


@contextmanager
def _running_system(*, docker: bool, native: bool) -> Iterator[System]:
    """Start in containers by default, if Docker answers and the environment names no servers; else as processes."""
    if docker and native:
        raise CannotRun("--docker or --native, not both")
    if docker and not docker_answers():
        raise CannotRun("--docker was given, but no Docker engine with compose answers here")
    given = any(name.startswith(_GIVEN) and value for name, value in os.environ.items())
    in_docker = docker or (not native and not given and docker_answers())
    console.print(f"\n[bold]Chorus[/] starts {'in containers' if in_docker else 'as processes'}.")
    with run_in_docker() if in_docker else run_locally() as system:
        yield system


def _wait_for_ctrl_c(system: System) -> None:
    """Return at Ctrl-C. Raises CannotRun if a part of the system ends before."""
    console.print("\n  Ctrl-C stops everything.\n")
    try:
        while (ended := system.ended()) is None:
            time.sleep(5)
    except KeyboardInterrupt:
        console.print("\n  Stopping.")
        return
    raise CannotRun(f"{ended} has ended.\n{system.log(ended)}")
