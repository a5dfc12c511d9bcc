"""Services that start in moments: real processes, forked from one that has all their code loaded already.

A start costs a second of a processor otherwise, nearly all of it for loading code, and the tests start services by the
hundred. Such a process accepts a crash point of `chassis/crash_points.py`.
"""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from chassis import crash_points
from ops.main import main
from tests.support import mutants
from tests.support.processes import ServiceProcess
from tools.children import Child, die_with_parent

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.loaded"])


class Fork(Child):
    """A `chorus` command in a forked process."""

    _forked: "multiprocessing.context.ForkServerProcess | None" = None
    crash_at = ""
    """The crash point of its next start, as in `CHORUS_CRASH_AT`; none if empty."""

    def start(self, also: Mapping[str, str] | None = None) -> None:
        environment = (
            dict(self.environment) | {crash_points.VARIABLE: self.crash_at} | dict(also or {})
        )
        arguments = self.command, environment, self.log
        self._forked = _context.Process(target=_live, args=arguments, name=self.name)
        self._forked.start()

    @property
    def pid(self) -> int:
        assert self._forked is not None
        assert self._forked.pid is not None
        return self._forked.pid

    @property
    def running(self) -> bool:
        return self._forked is not None and self._forked.is_alive()

    @property
    def exit_status(self) -> int | None:
        return None if self._forked is None else self._forked.exitcode

    def ask_to_stop(self) -> None:
        if self.running:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self._forked is not None:
            self._forked.kill()
            self._forked.join()


class ForkedService(ServiceProcess):
    """`chorus serve`, forked."""

    child: Fork

    def _child(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Fork:
        return Fork(self.name, command, log=log, environment=environment)

    def launch(self, crash_at: str = "") -> None:
        """Start it without waiting, optionally with a crash point of `chassis/crash_points.py`."""
        self.child.crash_at = crash_at
        super().launch()


def _live(command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
    die_with_parent(signal.SIGKILL)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(crash_points)  # it was loaded in a process that was not to die
    if mutant := os.environ.pop(mutants.VARIABLE, ""):
        mutants.mutate(mutant)
    sys.argv = ["chorus", *map(str, command)]
    main()
