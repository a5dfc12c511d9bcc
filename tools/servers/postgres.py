"""A private PostgreSQL: fresh data, one superuser with a random password, TCP on 127.0.0.1 only, fsync on."""

import os
import secrets
import signal
import subprocess
from pathlib import Path

from tools.children import Child, ChildFailed
from tools.servers.accounts import folder_for, give, unprivileged
from tools.servers.install import postgres_programs
from tools.servers.ports import private_port

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",  # parallel tests, each with services of its own
}


class PrivatePostgres:
    def __init__(self, folder: Path) -> None:
        self._account = unprivileged("postgres")
        self._folder = folder_for(self._account, folder / "postgres")
        self._data = self._folder / "data"
        self._password = secrets.token_hex(12)
        self.port = private_port()
        self.url = f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"
        options = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": self.port}.items()]
        self.process = Child(
            "PostgreSQL",
            [postgres_programs() / "postgres", "-D", self._data, *options],
            log=folder / "postgres.log",
            environment=self._environment(),
            folder=self._folder,
            account=self._account,
            stop_with=signal.SIGINT,  # "fast": open connections are cut off
            orphaned=signal.SIGQUIT,  # "immediate": unlike SIGKILL it leaves no shared memory behind
        )

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "LC_ALL": "C",
            "TZ": "UTC",
        }

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Starts it, on the data it had if it ran before, without waiting until it answers."""
        if not self._data.exists():
            self._make_data()
        self.process.start()

    def _make_data(self) -> None:
        password = give(self._account, self._folder / "password", self._password)
        # --no-sync: of an empty database nothing can be lost. The server itself syncs.
        options = [
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ]
        account = self._account
        made = subprocess.run(
            [postgres_programs() / "initdb", "-D", self._data, f"--pwfile={password}", *options],
            env=self._environment(),
            cwd=self._folder,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            check=False,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise ChildFailed(
                f"initdb ended with status {made.returncode}\n{made.stdout}{made.stderr}"
            )

    def wait(self) -> None:
        self.process.wait_until(self._is_ready, within=60)

    def _is_ready(self) -> bool:
        try:
            state = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(state) > 7 and state[0] == str(self.process.pid) and state[7].strip() == "ready"

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    def discard(self) -> None:
        """Ends it as quickly as can be: the data is of no more use."""
        if self.process.running:
            os.kill(self.process.pid, signal.SIGQUIT)
        self.process.stop(within=5)
