"""What private servers have in common: an account, a data folder, and a process that starts, stops and restarts."""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tools.children import Child
from tools.servers.folders import unprivileged
from tools.servers.install import Package
from tools.servers.ports import private_port


class PrivateServer(ABC):
    """One server. Its data stays when it is stopped or killed, and is there at the next start."""

    package: ClassVar[Package]
    account_name: ClassVar[str]
    ready_seconds: ClassVar[float]
    environment: Mapping[str, str]
    process: Child

    def __init__(self, folder: Path) -> None:
        self._account = unprivileged(self.account_name)
        self._folder = folder / self.account_name
        self._folder.mkdir(mode=0o700)
        self._give(self._folder)
        self.port = private_port()

    def _write(self, name: str, text: str, *, mode: int = 0o600) -> Path:
        path = self._folder / name
        path.write_text(text)
        path.chmod(mode)
        self._give(path)
        return path

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _child(self, name: str, command: Sequence[str | Path], **signals: signal.Signals) -> Child:
        log = self._folder.parent / f"{name.lower()}.log"
        return Child(
            name, command, log=log, environment=self.environment, folder=self._folder,
            account=self._account, **signals,
        )  # fmt: skip

    @abstractmethod
    def launch(self) -> None:
        """Start it, with its data if it ran before, and do not wait until it is ready."""

    @abstractmethod
    def discard(self) -> None:
        """Stop it quickly. Its data is not needed any more."""

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def wait(self) -> None:
        """Wait until it is ready. Raises ChildFailed."""
        self.process.wait_until(self._is_ready, within=self.ready_seconds)

    def start(self) -> None:
        self.launch()
        self.wait()

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()
