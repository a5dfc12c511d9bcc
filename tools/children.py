"""Child processes that never outlive us.

A child gets a session of its own, so that Ctrl-C reaches only us and we stop everything in order, and a
signal of its own for the case that we die without a chance to stop anything (``kill -9``).
"""

import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# A child's death signal comes when the *thread* that started it ends, so one lasting thread starts all of them.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class CannotRun(Exception):
    """Something that is needed is missing or failed; the message says what, and what to do."""


class ChildFailed(CannotRun):
    """A child process ended, or was not ready in time. The end of its log says why."""


class Child:
    """One process that can be started, stopped, killed and started again."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        folder: Path | None = None,
        account: pwd.struct_passwd | None = None,
        stop_with: signal.Signals = signal.SIGTERM,
        orphaned: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = log
        self._command = [str(part) for part in command]
        self._environment = dict(environment)
        self._folder = folder
        self._account = account
        self._stop_with = stop_with
        self._orphaned = orphaned
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ChildFailed(f"{self.name} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self, also: Mapping[str, str] | None = None) -> None:
        """Starts it; `also` are more environment variables, for this start only."""
        self._process = _starter.submit(self._spawn, also or {}).result()

    def _spawn(self, also: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        parent = os.getpid()
        account = self._account
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, **also},
                cwd=self._folder,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(self._orphaned, parent),  # noqa: PLW1509  # no lock
            )

    def wait_until(self, ready: Callable[[], bool], *, within: float) -> None:
        """Returns once `ready()`; raises ChildFailed if the child ends before that, or takes longer (seconds)."""
        deadline = time.monotonic() + within
        while not ready():
            if not self.running:
                raise ChildFailed(
                    f"{self.name} ended with status {self.exit_status}\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready in {within:.0f} s\n{self.tail()}")
            time.sleep(0.05)

    def finish(self, *, within: float) -> None:
        """Waits until it ends by itself; raises ChildFailed if that takes longer (seconds) or its status is not 0."""
        if self._process is None:
            raise ChildFailed(f"{self.name} was never started")
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise ChildFailed(
                f"{self.name} took longer than {within:.0f} s\n{self.tail()}"
            ) from None
        if status:
            raise ChildFailed(f"{self.name} ended with status {status}\n{self.tail()}")

    def ask_to_stop(self) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(self._stop_with)

    def stop(self, *, within: float = 20) -> None:
        """Asks, waits (seconds), and kills what is still there."""
        self.ask_to_stop()
        try:
            if self._process is not None:
                self._process.wait(within)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the child and everything below it, as if the power had gone."""
        if self._process is None or not self.running:
            return
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()

    def family(self) -> list[int]:
        """The process and everything below it. Raises ChildFailed if it was never started."""
        return [self.pid, *_descendants(self.pid)]

    def tail(self, lines: int = 25) -> str:
        """The end of its log, indented."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"  {self.log}:", *(f"  | {line}" for line in text)])


def die_with_parent(orphaned: signal.Signals, parent: int | None = None) -> None:
    """Have the system send us `orphaned` when our parent dies; end at once if it is `parent` no longer."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(orphaned))
        if parent is not None and os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _descendants(ancestor: int) -> Iterator[int]:
    parents = dict(_parents())
    for pid, parent in parents.items():
        above: int | None = parent
        while above is not None and above != ancestor:
            above = parents.get(above)
        if above == ancestor:
            yield pid


def _parents() -> Iterator[tuple[int, int]]:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        yield int(status.parent.name), int(fields[1])
