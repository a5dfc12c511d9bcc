"""Chorus in containers: compose.yaml as a project of its own, removed at the end together with its volumes."""

import json
import os
import re
import socket
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.children import CannotRun, Child, ChildFailed
from tools.console import phase
from tools.servers.folders import project_folder, run_folder
from tools.system import PORTS, Login, System, new_password

# Named for the machine and the process: the next run finds what a killed run left, and touches no other project.
_PREFIX = f"chorus-{zlib.crc32(socket.gethostname().encode()):08x}-"


def docker_answers() -> bool:
    """Whether there are a Docker engine and compose."""
    try:
        return _compose("ls", timeout=10).returncode == 0
    except CannotRun:
        return False


def _compose(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a compose command that takes at most half a minute. Raises CannotRun if it cannot be run."""
    command = ["docker", "compose", "--ansi=never", *arguments]
    options = {"timeout": 30, **options}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(str(error)) from None


class DockerSystem(System):
    """One compose project."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {**PORTS, "rabbitmq": 15672})
        self._name = f"{_PREFIX}{os.getpid()}"
        rabbitmq = Login("admin", new_password())
        self._environment = {
            **os.environ,
            **{f"CHORUS_{name.upper()}_PORT": str(port) for name, port in self._ports.items()},
            **self._operator,
            "CHORUS_RABBITMQ_PASSWORD": rabbitmq.password,
            "CHORUS_POSTGRES_PASSWORD": new_password(),
        }
        url = f"http://127.0.0.1:{self._ports['rabbitmq']}"
        self.addresses = replace(self.addresses, rabbitmq=url, rabbitmq_login=rabbitmq)

    def start(self) -> None:
        try:
            self._run("up", "--build", "--wait", "--wait-timeout=180", "--quiet-pull", within=900)
        except ChildFailed as error:
            failed = [state["Service"] for state in self._states() if not _is_healthy(state)]
            raise ChildFailed("\n".join([str(error), *map(self.log, failed)])) from None

    def stop(self) -> None:
        self._run("down", "--volumes", "--remove-orphans", "--timeout=10", within=120)

    def _run(self, verb: str, *arguments: str, within: float) -> None:
        options = ("--project-name", self._name, "--progress=plain")
        Child(
            f"docker compose {verb}",
            ["docker", "compose", "--ansi=never", *options, verb, *arguments],
            log=self._folder / f"compose-{verb}.log",
            environment=self._environment,
            folder=project_folder(),
        ).run(within=within)

    def log(self, part: str) -> str:
        lines = self._output("logs", "--no-log-prefix", "--tail=25", part)
        return "\n".join([f"  {part}:", *(f"  | {line}" for line in lines)])

    def ended(self) -> str | None:
        # Docker restarts a container that has ended: while it is "starting", it does not count as ended.
        states = (state for state in self._states() if state["Health"] != "starting")
        return next((state["Service"] for state in states if not _is_healthy(state)), None)

    def _states(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._output("ps", "--all", "--format=json")]

    def _output(self, *arguments: str) -> list[str]:
        done = _compose(
            "--project-name", self._name, *arguments,
            env=self._environment, cwd=project_folder(), start_new_session=True,
        )  # fmt: skip
        return done.stdout.splitlines()


def _is_healthy(state: dict[str, Any]) -> bool:
    if state["State"] == "exited":
        return bool(state["ExitCode"] == 0)
    return bool(state["Health"] == "healthy")


@contextmanager
def run_in_docker() -> Iterator[DockerSystem]:
    """Start everything from nothing. The image is built from the checkout."""
    _remove_abandoned_projects()
    with run_folder() as folder:
        system = DockerSystem(folder)
        try:
            with phase("Building the image and starting the containers", "containers are healthy"):
                system.start()
            yield system
        finally:
            with phase("Removing the containers", "containers and volumes are removed"):
                system.stop()


def _remove_abandoned_projects() -> None:
    """Remove the projects of processes on this machine that have ended."""
    for project in json.loads(_compose("ls", "--all", "--format=json").stdout or "[]"):
        name = project["Name"]
        owner = re.fullmatch(f"{_PREFIX}([0-9]+)", name)
        if owner and not Path("/proc", owner[1]).exists():
            _compose("--project-name", name, "down", "--volumes", "--timeout=1", timeout=60)
