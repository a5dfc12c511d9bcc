"""A private PostgreSQL: fresh data, one superuser with a random password, TCP on 127.0.0.1 only, fsync on."""

import os
import secrets
import signal
from pathlib import Path

from tools.servers.install import postgres_programs
from tools.servers.server import PrivateServer

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",  # parallel tests, each with its own services
}
# --no-sync: an empty database has nothing to lose. The server itself syncs.
_INITDB = (
    "--username=postgres", "--auth=scram-sha-256", "--no-locale", "--no-sync",
)  # fmt: skip


class PrivatePostgres(PrivateServer):
    package = "postgresql"
    account_name = "postgres"
    ready_seconds = 60
    encoding = "UTF8"
    """Of its template databases."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.data = self._folder / "data"
        self._password = secrets.token_hex(12)
        self.url = f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "LC_ALL": "C",
            "TZ": "UTC",
        }
        options = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": self.port}.items()]
        self.process = self._child(
            "PostgreSQL",
            [postgres_programs() / "postgres", "-D", self.data, *options],
            stop_with=signal.SIGINT,  # "fast": closes open connections
            orphaned=signal.SIGQUIT,  # "immediate": unlike SIGKILL it releases the shared memory
        )

    def launch(self) -> None:
        if not self.data.exists():
            password = f"--pwfile={self._write('password', self._password)}"
            initdb = postgres_programs() / "initdb"
            options = password, f"--encoding={self.encoding}", *_INITDB
            self._child("initdb", [initdb, "-D", self.data, *options]).run(within=120)
        self.process.start()

    def _is_ready(self) -> bool:
        try:
            state = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(state) > 7 and state[0] == str(self.process.pid) and state[7].strip() == "ready"

    def discard(self) -> None:
        if self.process.running:
            os.kill(self.process.pid, signal.SIGQUIT)
        self.process.stop(within=5)
