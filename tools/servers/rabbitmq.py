"""A private RabbitMQ with its management page: own node, own epmd, own cookie, everything on 127.0.0.1 only."""

import os
import secrets
import signal
from pathlib import Path

import httpx

from tools.children import ChildFailed
from tools.servers.install import rabbitmq_server
from tools.servers.ports import is_free, private_port
from tools.servers.server import PrivateServer

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
default_user = {user}
default_pass = {password}
log.console = true
log.console.level = info
log.file = false
# In a cluster: a node that cannot reach the majority pauses until it can.
cluster_partition_handling = pause_minority
# A node is considered down after so many seconds without a reply, at most a quarter more.
net_ticktime = 8
"""

_JOINING = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = {node}
"""


class PrivateRabbitMQ(PrivateServer):
    package = "rabbitmq"
    account_name = "rabbitmq"
    ready_seconds = 90
    user = "admin"

    def __init__(self, folder: Path, *, joins: "PrivateRabbitMQ | None" = None) -> None:
        """A node of its own, or one that joins the cluster of a running node."""
        super().__init__(folder)
        self._joins = joins
        self.management_port, self._peer_port = private_port(), private_port()
        self.epmd_port: int = joins.epmd_port if joins else private_port()
        self.cookie: str = joins.cookie if joins else secrets.token_hex(16)
        self.password: str = joins.password if joins else secrets.token_hex(6)
        self.node = f"chorus-{secrets.token_hex(4)}@localhost"
        login = f"{self.user}:{self.password}@127.0.0.1"
        self.amqp_url = f"amqp://{login}:{self.port}/%2F"
        self.api_url = f"http://{login}:{self.management_port}"
        self.environment = self._environment()
        self._write_configuration()
        epmd = ["epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"]
        self._epmd = self._child("epmd", epmd, orphaned=signal.SIGKILL)
        self.process = self._child("RabbitMQ", [rabbitmq_server()], orphaned=signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        """For the server, and for `rabbitmqctl`, which finds the node by it."""
        folder = self._folder
        return {
            "PATH": f"{rabbitmq_server().parent}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._peer_port),
            # Two threads for file access are enough. RabbitMQ's own options against busy waiting are kept.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +SDio 2",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            # Makes the start script replace itself with the server, so that signals reach the server.
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
            # The shovel lets the management page move dead-lettered messages back, and copy the event log.
            "enabled_plugins": "[rabbitmq_management,rabbitmq_shovel,rabbitmq_shovel_management].\n",
        }
        for name, text in files.items():
            self._write(name, text)
        self._write(".erlang.cookie", self.cookie, mode=0o400)

    def launch(self) -> None:
        if not self._epmd.running:
            self._epmd.start()
            self._epmd.wait_until(lambda: not is_free(self.epmd_port), within=10)
        self.process.start()

    def _is_ready(self) -> bool:
        if is_free(self.port):
            return False
        try:
            overview = f"{self.api_url}/api/overview"
            return httpx.get(overview, timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def control(self, *arguments: str) -> int:
        """Run `rabbitmqctl` and return its exit status, which is not 0 if it takes longer than 30 s."""
        program = rabbitmq_server().parent / "rabbitmqctl"
        child = self._child("rabbitmqctl", [program, *arguments])
        try:
            child.run(within=30)
        except ChildFailed:
            return child.exit_status or 1
        return 0

    def discard(self) -> None:
        self.process.kill()
        self._epmd.kill()
