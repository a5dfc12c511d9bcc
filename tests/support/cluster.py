"""Three RabbitMQ nodes as private processes, one of which can be killed, frozen or cut off from the others."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tests.support.eventually import eventually
from tests.support.servers import Servers
from tools.children import ChildFailed
from tools.servers import PrivateRabbitMQ
from tools.servers.folders import run_folder

NODES: Final = 3
HEAL_SECONDS: Final = 120.0


@dataclass(frozen=True)
class ClusterServers(Servers):
    """The addresses of the nodes: services get all of them, an administrator gets the first."""

    amqp_ports: tuple[int, ...] = ()

    def amqp_url(self, user: str, password: str, vhost: str = "%2F") -> str:
        return ",".join(
            f"amqp://{user}:{password}@{self.amqp_host}:{port}/{vhost}" for port in self.amqp_ports
        )

    @property
    def amqp_admin_url(self) -> str:
        return super().amqp_admin_url.split(",")[0]


class Cluster:
    """The nodes, by their names."""

    def __init__(self, *nodes: PrivateRabbitMQ) -> None:
        self.nodes = {node.node: node for node in nodes}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator["Cluster"]:
        """A cluster of its own, gone at the end of the block."""
        with ExitStack() as cleanup:
            first = PrivateRabbitMQ(cleanup.enter_context(run_folder()))
            others = [
                PrivateRabbitMQ(cleanup.enter_context(run_folder()), joins=first)
                for _ in range(NODES - 1)
            ]
            for node in (first, *others):
                cleanup.callback(node.discard)
            await asyncio.to_thread(first.start)
            for node in others:
                node.launch()
            for node in others:
                await asyncio.to_thread(node.wait)
            yield cls(first, *others)

    def servers(self, database_admin_url: str) -> ClusterServers:
        """The cluster and somebody's PostgreSQL."""
        first, *_ = self.nodes.values()
        ports = tuple(node.port for node in self.nodes.values())
        url = first.api_url
        return ClusterServers("native", database_admin_url, url, "127.0.0.1", first.port, ports)

    async def queues(self, vhost: str, *, without: str = "") -> list[dict[str, Any]]:
        """All queues as the management API of a node that works describes them."""
        name = next(name for name in self.nodes if name != without)
        return await self._get(name, f"queues/{vhost}")

    async def described(self, vhost: str, *, without: str = "") -> str:
        """What the queues are like, a line for each."""
        fields = ("leader", "online", "messages_ready", "messages_unacknowledged", "consumers")
        return "\n".join(
            f"{queue['name']}: { ({name: queue.get(name) for name in fields}) }"
            for queue in await self.queues(vhost, without=without)
        )

    async def leader(self, vhost: str, queue: str) -> str:
        """The name of the node that leads a queue."""
        [found] = [q for q in await self.queues(vhost) if q["name"] == queue]
        leader: str = found["leader"]
        return leader

    async def whole(self, vhost: str) -> None:
        """Wait until every node sees all the others, and every quorum queue has all its members again.

        Before that a further fault would be a second one at a time. A stream's member is not waited for: after a
        partition RabbitMQ 3.10 may be minutes late to start it, and nothing that is promised depends on the journal.
        """

        async def all_online() -> None:
            try:
                away = [
                    f"{one} from {name}" for name in self.nodes for one in await self._away(name)
                ]
                queues = await self.queues(vhost)
            except httpx.HTTPError as error:
                raise AssertionError(repr(error)) from None
            assert not away, f"nodes are away: {away}"
            members = {q["name"]: q.get("online", ()) for q in queues if q["type"] == "quorum"}
            short = [name for name, online in members.items() if len(online) < NODES]
            assert not short, f"members are missing: {short}"
            assert members

        await eventually(all_online, within=HEAL_SECONDS)

    async def _away(self, name: str) -> list[str]:
        """The nodes that a node does not see; one that is partitioned from the majority is restarted.

        A node that was frozen for longer than `net_ticktime`, and then sees the others at once, does not notice that it
        was in the minority. It stays partitioned until it is restarted, as the runbook says.
        """
        nodes = {node["name"]: node for node in await self._get(name, "nodes")}
        if len(nodes[name].get("partitions", ())) > NODES // 2:
            self.nodes[name].kill()
            await asyncio.to_thread(self.nodes[name].start)
        return [other for other, node in nodes.items() if not node["running"]]

    async def _get(self, name: str, path: str) -> list[dict[str, Any]]:
        url = f"{self.nodes[name].api_url}/api/{path}"
        async with httpx.AsyncClient(trust_env=False, timeout=20, verify=False) as http:  # noqa: S501 - no TLS
            found: list[dict[str, Any]] = (await http.get(url)).raise_for_status().json()
            return found

    # Faults. Each ends with the block.

    @contextlib.asynccontextmanager
    async def killed(self, name: str) -> AsyncIterator[None]:
        self.nodes[name].kill()
        try:
            yield
        finally:
            await asyncio.to_thread(self.nodes[name].start)

    @contextlib.asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[None]:
        pid = self.nodes[name].process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def cut_off(self, name: str) -> AsyncIterator[None]:
        """It and the others do not let each other in any more; clients reach all of them."""
        others = [other for other in self.nodes if other != name]
        await self._eval(name, *(f"erlang:set_cookie('{other}', wrong)" for other in others))
        await self._eval(name, *(f"erlang:disconnect_node('{other}')" for other in others))
        try:
            yield
        finally:
            own = "erlang:get_cookie()"
            await self._eval(name, *(f"erlang:set_cookie('{other}', {own})" for other in others))
            await self._eval(name, *(f"net_kernel:connect_node('{other}')" for other in others))

    async def _eval(self, name: str, *expressions: str) -> None:
        code = ", ".join(expressions) + "."
        if await asyncio.to_thread(self.nodes[name].control, "eval", code) != 0:
            raise ChildFailed(f"{name}: {code}")
