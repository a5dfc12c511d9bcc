"""Chorus in containers: compose.yaml under a project name of its own, gone at the end with its volumes."""

import json
import os
import re
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apps import SERVICES
from tools.children import Child, ChildFailed
from tools.console import phase
from tools.servers.folders import project_folder, run_folder
from tools.system import (
    USUAL_PORTS,
    Addresses,
    Login,
    choose_ports,
    new_password,
    operator_login,
)

_PORTS = {**USUAL_PORTS, "rabbitmq": 15672}
# Told apart by machine and process: what a killed run left is found, and nobody else's is touched.
_PREFIX = f"chorus-{zlib.crc32(socket.gethostname().encode()):08x}-"
_BUILD_SECONDS = 900


def docker_answers() -> bool:
    """Whether an engine and compose are there, and a compose.yaml to run."""
    if shutil.which("docker") is None or not _compose_file().exists():
        return False
    questions = (
        ["docker", "version", "--format", "{{.Server.Version}}"],
        ["docker", "compose", "version"],
    )
    try:
        return all(_ask(question).returncode == 0 for question in questions)
    except subprocess.TimeoutExpired:
        return False


def _ask(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)


def _compose_file() -> Path:
    return project_folder() / "compose.yaml"


class DockerSystem:
    """One compose project."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"{_PREFIX}{os.getpid()}"
        self._ports = choose_ports(_PORTS)
        self._operator = operator_login()
        self._rabbitmq = Login("admin", new_password())
        self._environment = {**os.environ, **self._settings()}
        self.addresses = self._addresses()

    def _settings(self) -> Mapping[str, str]:
        ports = {f"CHORUS_{name.upper()}_PORT": str(port) for name, port in self._ports.items()}
        passwords = {
            "CHORUS_OPERATOR_EMAIL": self._operator.name,
            "CHORUS_OPERATOR_PASSWORD": self._operator.password,
            "CHORUS_RABBITMQ_PASSWORD": self._rabbitmq.password,
            "CHORUS_POSTGRES_PASSWORD": new_password(),
        }
        return {**ports, **passwords}

    def _addresses(self) -> Addresses:
        urls = {name: f"http://127.0.0.1:{port}" for name, port in self._ports.items()}
        return Addresses(
            services={name: urls[name] for name in SERVICES},
            mail=urls["mail"],
            operator=self._operator,
            rabbitmq=urls["rabbitmq"],
            rabbitmq_login=self._rabbitmq,
        )

    def start(self) -> None:
        child = self._compose("up", "--build", "--wait", "--wait-timeout=180", "--quiet-pull")
        try:
            child.start()
            child.finish(within=_BUILD_SECONDS)
        except ChildFailed as error:
            raise ChildFailed(f"{error}\n{self._failed_logs()}") from None
        finally:
            child.stop()

    def stop(self) -> None:
        child = self._compose("down", "--volumes", "--remove-orphans", "--timeout=10")
        child.start()
        child.finish(within=120)

    def _compose(self, *arguments: str) -> Child:
        command = [
            "docker",
            "compose",
            "--project-name",
            self._name,
            "--progress=plain",
            "--ansi=never",
            *arguments,
        ]
        return Child(
            f"docker compose {arguments[0]}",
            command,
            log=self._folder / f"compose-{arguments[0]}.log",
            environment=self._environment,
            folder=project_folder(),
        )

    def log(self, part: str) -> str:
        asked = self._answer("logs", "--no-log-prefix", "--tail=25", part)
        return "\n".join([f"  {part}:", *(f"  | {line}" for line in asked.splitlines())])

    def _failed_logs(self) -> str:
        failed = [state["Service"] for state in self._states() if not _is_well(state)]
        return "\n".join(self.log(part) for part in failed)

    def ended(self) -> str | None:
        # While it is being restarted a part is "starting": it gets its chance.
        states = (state for state in self._states() if state["Health"] != "starting")
        return next((state["Service"] for state in states if not _is_well(state)), None)

    def _states(self) -> list[dict[str, Any]]:
        listed = self._answer("ps", "--all", "--format=json")
        return [json.loads(line) for line in listed.splitlines()]

    def _answer(self, *arguments: str) -> str:
        command = ["docker", "compose", "--project-name", self._name, "--ansi=never", *arguments]
        asked = subprocess.run(
            command, env=self._environment, cwd=project_folder(), capture_output=True, text=True, timeout=30,
            check=False, start_new_session=True,
        )  # fmt: skip
        return asked.stdout


def _is_well(state: dict[str, Any]) -> bool:
    if state["State"] == "exited":
        return bool(state["ExitCode"] == 0)
    return bool(state["Health"] == "healthy")


@contextmanager
def run_in_docker() -> Iterator[DockerSystem]:
    """Everything from nothing; the image is built from the checkout."""
    _remove_what_killed_runs_left()
    with run_folder() as folder:
        system = DockerSystem(folder)
        try:
            with phase(
                "Building the image and starting the containers", "all containers are healthy"
            ):
                system.start()
            yield system
        finally:
            with phase("Removing the containers", "containers and volumes are removed"):
                system.stop()


def _remove_what_killed_runs_left() -> None:
    listed = _ask(["docker", "compose", "ls", "--all", "--format=json"])
    for project in json.loads(listed.stdout or "[]"):
        owner = re.fullmatch(f"{_PREFIX}([0-9]+)", project["Name"])
        if owner and not Path("/proc", owner[1]).exists():
            _ask(
                [
                    "docker",
                    "compose",
                    "--project-name",
                    project["Name"],
                    "down",
                    "--volumes",
                    "--timeout=1",
                ]
            )
