"""The system that `chorus up` or `chorus demo` runs in this checkout. Operator's commands find it without settings."""

import fcntl
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tools.servers.folders import run_folders

COMMANDS: Final = {
    "audit", "dead", "migrate", "rebuild", "repair", "republish", "status", "topology", "trace"
}  # fmt: skip
"""Those that are about a running system."""

FILE: Final = "running.json"

GIVEN: Final = ("CHORUS_DATABASE_", "CHORUS_AMQP_URL", "CHORUS_RABBITMQ_API_URL")
"""Settings that name a system. With one of them no other is looked for."""


def announce(folder: Path, environment: Mapping[str, str], command: Sequence[str] = ()) -> None:
    """Say in a run's folder how its system is reached. Only this account may read it: it holds passwords.

    An operator's command runs with `environment`, as arguments of `command` if that is given, else in this process.
    """
    opened = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "w") as file:
        json.dump({"environment": dict(environment), "command": list(command)}, file)


def adopt(arguments: Sequence[str]) -> None:
    """Take the settings of the system that was started last here, or run the command in one of its containers.

    Only for COMMANDS, and if the environment names no system.
    """
    if not arguments or arguments[0] not in COMMANDS or any(map(_is_given, os.environ)):
        return
    found = [folder / FILE for folder in run_folders() if (folder / FILE).exists()]
    for file in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True):
        if _runs(file.parent):
            system: dict[str, Any] = json.loads(file.read_text())
            print(f"chorus: the system that runs in {file.parent}", file=sys.stderr)
            os.environ |= system["environment"]
            if command := system["command"]:
                os.execvp(command[0], [*command, *arguments])  # noqa: S606 - no shell is needed
            return


def _is_given(name: str) -> bool:
    return name.startswith(GIVEN) and bool(os.environ[name])


def _runs(folder: Path) -> bool:
    """Whether the run holds its folder's lock."""
    with (folder / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
