"""Child processes that never outlive this process.

A child gets its own session: Ctrl-C reaches only the parent, which stops the children in order. If the parent is killed
with SIGKILL, the kernel sends each child a signal.
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
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

# The death signal is sent when the *thread* that started the child ends, so one lasting thread starts all of them.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class CannotRun(Exception):
    """Something required is missing or has failed. The message says what, and what to do."""


class ChildFailed(CannotRun):
    """A child process ended, or was not ready in time. The message has the end of its log."""


@dataclass(eq=False)
class Child:
    """One process that can be started, stopped, killed and started again."""

    name: str
    command: Sequence[str | Path]
    _: KW_ONLY
    log: Path
    environment: Mapping[str, str]
    folder: Path | None = None
    account: pwd.struct_passwd | None = None
    """What it runs as; None: as this process."""
    stop_with: signal.Signals = signal.SIGTERM
    orphaned: signal.Signals = signal.SIGTERM
    """What the kernel sends it when this process dies."""
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

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
        """Start it. `also` are more environment variables, for this start only."""
        self._process = _starter.submit(self._spawn, also or {}).result()

    def _spawn(self, also: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        parent = os.getpid()
        account = self.account
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, **also},
                cwd=self.folder,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(self.orphaned, parent),  # noqa: PLW1509  # no lock
            )

    def wait_until(self, ready: Callable[[], bool], *, within: float) -> None:
        """Return once `ready()`. Raises ChildFailed if the child ends before that, or takes longer (seconds)."""
        deadline = time.monotonic() + within
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready in {within:.0f} s\n{self.tail()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raises ChildFailed if it has ended."""
        if not self.running:
            raise ChildFailed(f"{self.name} ended with status {self.exit_status}\n{self.tail()}")

    def run(self, *, within: float) -> None:
        """Start it, and wait until it ends. Raises ChildFailed if that takes longer (seconds) or it fails."""
        self.start()
        self.finish(within=within)

    def finish(self, *, within: float) -> None:
        """Wait until it ends; it is stopped if that takes longer (seconds). Raises ChildFailed, also if it fails."""
        assert self._process is not None
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            slow = f"{self.name} took longer than {within:.0f} s\n{self.tail()}"
            raise ChildFailed(slow) from None
        finally:
            self.stop()
        if self.exit_status:
            self.check()

    def ask_to_stop(self) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(self.stop_with)

    def stop(self, *, within: float = 20) -> None:
        """Send the stop signal, wait (seconds), and kill what still runs."""
        self.ask_to_stop()
        try:
            with suppress(subprocess.TimeoutExpired):
                if self._process is not None:
                    self._process.wait(within)
        finally:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the child and all its descendants, and wait until the child is gone."""
        if self._process is None or not self.running:
            return
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def family(self) -> list[int]:
        """The process ids of the child and all its descendants. Raises ChildFailed if it was never started."""
        return [self.pid, *_descendants(self.pid)]

    def tail(self, lines: int = 25) -> str:
        """The end of its log, indented."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"  {self.log}:", *(f"  | {line}" for line in text)])


def die_with_parent(orphaned: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send this process `orphaned` when its parent dies. Ends at once if `parent` has died already."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(orphaned))
        if parent is not None and os.getppid() != parent:  # it died before prctl was called
            os._exit(1)


def _descendants(ancestor: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    level = children.get(ancestor, [])
    while level:
        yield from level
        level = [below for pid in level for below in children.get(pid, [])]
