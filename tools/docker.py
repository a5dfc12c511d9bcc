"""Chorus in containers: compose.yaml as a project of its own, removed at the end together with its volumes."""

import json
import os
import re
import shutil
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
    """Whether there are a Docker engine, compose and a compose.yaml to run."""
    if shutil.which("docker") is None or not (project_folder() / "compose.yaml").exists():
        return False
    commands = (["version", "--format", "{{.Server.Version}}"], _compose("version"))
    try:
        return all(_docker(*command).returncode == 0 for command in commands)
    except CannotRun:
        return False


def _compose(*arguments: str) -> list[str]:
    return ["compose", "--ansi=never", *arguments]


def _docker(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = ["docker", *arguments]
    options = {"timeout": 10, **options}
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, **options)
    except subprocess.TimeoutExpired as error:
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
            ["docker", *_compose(*options, verb, *arguments)],
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
        command = _compose("--project-name", self._name, *arguments)
        done = _docker(
            *command,
            timeout=30,
            env=self._environment,
            cwd=project_folder(),
            start_new_session=True,
        )
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
    for project in json.loads(_docker(*_compose("ls", "--all", "--format=json")).stdout or "[]"):
        owner = re.fullmatch(f"{_PREFIX}([0-9]+)", project["Name"])
        if owner and not Path("/proc", owner[1]).exists():
            down = _compose("--project-name", project["Name"], "down", "--volumes", "--timeout=1")
            _docker(*down, timeout=60)
