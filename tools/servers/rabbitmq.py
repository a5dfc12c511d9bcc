"""A private RabbitMQ with its management page: own node, own epmd, own cookie, everything on 127.0.0.1 only."""

import os
import secrets
import signal
import subprocess
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

from tools.children import Child
from tools.servers.accounts import folder_for, give, unprivileged
from tools.servers.install import rabbitmq_server
from tools.servers.ports import is_free, private_port

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
default_user = {user}
default_pass = {password}
log.console = true
log.console.level = info
log.file = false
# In a cluster: whoever does not see most of the others stops until he does.
cluster_partition_handling = pause_minority
# After so many seconds without a sign of life, at most a quarter more, a node counts as gone.
net_ticktime = 8
"""

_JOINING = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = {node}
"""


class PrivateRabbitMQ:
    user = "admin"

    def __init__(self, folder: Path, *, joins: "PrivateRabbitMQ | None" = None) -> None:
        """A node of its own, or one more of the cluster of a node that runs."""
        self._account = unprivileged("rabbitmq")
        self._folder = folder_for(self._account, folder / "rabbitmq")
        self._joins = joins
        self.port, self.management_port, self._peer_port = (private_port() for _ in range(3))
        self.epmd_port: int = joins.epmd_port if joins else private_port()
        self.cookie: str = joins.cookie if joins else secrets.token_hex(16)
        self.password: str = joins.password if joins else secrets.token_hex(6)
        self.node = f"chorus-{secrets.token_hex(4)}@localhost"
        login = f"{self.user}:{self.password}@127.0.0.1"
        self.amqp_url = f"amqp://{login}:{self.port}/%2F"
        self.api_url = f"http://{login}:{self.management_port}"
        self.environment = self._environment()
        self._write_configuration()
        self._epmd = self._child(
            "epmd", ["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"]
        )
        self.process = self._child("RabbitMQ", [rabbitmq_server()])

    def _child(self, name: str, command: list[str | Path]) -> Child:
        return Child(
            name,
            command,
            log=self._folder.parent / f"{name.lower()}.log",
            environment=self.environment,
            folder=self._folder,
            account=self._account,
            orphaned=signal.SIGKILL,
        )

    def _environment(self) -> dict[str, str]:
        """For the server, and for its command line tools: with it `rabbitmqctl` finds this node."""
        folder = self._folder
        return {
            "PATH": f"{rabbitmq_server().parent}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._peer_port),
            # Two threads for files are enough, and RabbitMQ's own setting stays that none of them waits by spinning.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +SDio 2",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # Its script then becomes the server instead of waiting for it: the process we start is the one we stop.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _write_configuration(self) -> None:
        configuration = _CONFIGURATION.format(
            amqp=self.port, management=self.management_port, user=self.user, password=self.password
        )
        if self._joins is not None:
            configuration += _JOINING.format(node=self._joins.node)
        files = {
            "rabbitmq.conf": configuration,
            "rabbitmq-env.conf": "",
            "advanced.config": "[].\n",
            # Shovel: the management page can then move parked messages back, and copy what the journal holds.
            "enabled_plugins": "[rabbitmq_management,rabbitmq_shovel,rabbitmq_shovel_management].\n",
        }
        for name, text in files.items():
            give(self._account, self._folder / name, text)
        give(self._account, self._folder / ".erlang.cookie", self.cookie, mode=0o400)

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Starts it, on the data it had if it ran before, without waiting until it answers."""
        if not self._epmd.running:
            self._epmd.start()
            self._epmd.wait_until(lambda: not is_free(self.epmd_port), within=10)
        self.process.start()

    def wait(self) -> None:
        self.process.wait_until(self._is_ready, within=90)

    def _is_ready(self) -> bool:
        login = b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management_port}/api/overview",
            headers={"Authorization": f"Basic {login}"},
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=2
            ) as answer:
                return bool(answer.status == 200) and not is_free(self.port)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def control(self, *arguments: str) -> int:
        """Run `rabbitmqctl`; its exit status. 1 if it takes longer than 30 s."""
        account = self._account
        try:
            return subprocess.run(
                [rabbitmq_server().parent / "rabbitmqctl", *arguments],
                env=self.environment,
                cwd=self._folder,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=30,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return 1

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    def discard(self) -> None:
        """Ends it as quickly as can be: the data is of no more use."""
        self.process.kill()
        self._epmd.kill()
