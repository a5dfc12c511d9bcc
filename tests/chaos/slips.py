"""An operator's slips at the broker, and what the runbook has an operator do about them: nothing is lost for good."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import httpx
from aio_pika.exceptions import AMQPError

from apps import SERVICES
from chassis.database.errors import CONNECTION_LOST
from chassis.messaging.publisher import Publisher
from ops.audit.auditor import IN_FLIGHT
from ops.audit.databases import DatabaseUnavailableError, reading
from ops.audit.rules import View
from ops.dead import Chosen
from ops.dead_letters import DeadLetters, NotReplayedError
from ops.event_logs import publish_missing
from ops.management import Administration
from ops.subscriptions import TOPOLOGY
from tests.chaos.malformed import QUEUE
from tests.chaos.schedule import Fault
from tests.chaos.world import NothingToDoError, World
from tests.support.eventually import eventually

SLIPS: Final = ("delete queue", "purge queue", "unbind queue", "policy", "permissions")

MEND_SECONDS: Final = 90.0
"""How long an operator tries: the broker may just have been started again."""

MEND_PAUSE_SECONDS: Final = 0.5

WAITS_SECONDS: Final = 60.0
"""A malformed message that was sent longer ago than this was dead-lettered before its queue was purged."""

SHOWS_SECONDS: Final = 12.0
"""A queue that has a leader shows its state in the management API within this time: leaders report every 5 s."""

UNREGISTERED_SECONDS: Final = 3.0
"""So long after a queue's deletion RabbitMQ 3.10 may still drop the queue that then has its name."""

DISTURBED: Final = (
    AMQPError,
    httpx.HTTPError,
    asyncpg.PostgresError,
    DatabaseUnavailableError,
    NotReplayedError,
    *CONNECTION_LOST,
)
"""What another fault may do to an operator's command; they repeat it."""


class Slips:
    """Does slips. Each is mended after a while, as the runbook says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._vhost = quote(world.installation.name)
        self.kinds: dict[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "delete queue": self.delete_queue,
            "purge queue": self.purge_queue,
            "unbind queue": self.unbind_queue,
            "policy": self.policy,
            "permissions": self.permissions,
        }

    async def delete_queue(self, fault: Fault) -> None:
        async with self._mended(fault):
            await self._call("DELETE", f"queues/{self._vhost}/{fault.target}")

    async def purge_queue(self, fault: Fault) -> None:
        async with self._mended(fault):
            await self._call("DELETE", f"queues/{self._vhost}/{fault.target}/contents")

    async def unbind_queue(self, fault: Fault) -> None:
        [queue] = [queue for queue in TOPOLOGY.queues if queue.name == fault.target]
        async with self._mended(fault):
            for exchange, key in queue.bindings:
                path = f"bindings/{self._vhost}/e/{exchange}/q/{queue.name}/{key}"
                await self._call("DELETE", path)

    async def policy(self, fault: Fault) -> None:
        definition = {"pattern": f"^{fault.target}$", "definition": {fault.how: 1}}
        async with self._mended(fault):
            await self._call("PUT", self._policy, definition | {"apply-to": "queues"})

    async def permissions(self, fault: Fault) -> None:
        login = self._world.installation.login(fault.target)
        async with self._mended(fault):
            await self._call("DELETE", f"permissions/{self._vhost}/{login}")

    @property
    def _policy(self) -> str:
        return f"policies/{self._vhost}/slip"

    @contextlib.asynccontextmanager
    async def _mended(self, fault: Fault) -> AsyncIterator[None]:
        """The slip is made in this block. Raises NothingToDoError if the broker did not answer; it is mended anyhow."""
        self._may_lose_messages(fault.target)
        error = None
        try:
            yield
            await asyncio.sleep(fault.seconds)
        except httpx.HTTPError as refused:
            error = NothingToDoError(repr(refused))
        await eventually(self._restore_topology, within=MEND_SECONDS)
        with contextlib.suppress(*DISTURBED):  # the end of the run mends the rest
            await mend(self._world, IN_FLIGHT)
        if error is not None:
            raise error

    async def leaderless_queues(self) -> list[str]:
        """Queues that have no leader some time after the broker has started.

        RabbitMQ 3.10 loses a queue's log if it is killed after the queue was deleted and soon declared again.
        """
        try:
            await eventually(self._all_queues_have_a_leader, within=SHOWS_SECONDS)
        except AssertionError:
            return await self._leaderless()
        return []

    async def replace(self, leaderless: Sequence[str]) -> None:
        """What the runbook says of them."""
        for queue in leaderless:
            self._may_lose_messages(queue)
            await self._call("DELETE", f"queues/{self._vhost}/{queue}")
        await asyncio.sleep(UNREGISTERED_SECONDS)
        await eventually(self._restore_topology, within=MEND_SECONDS)

    async def _all_queues_have_a_leader(self) -> None:
        if leaderless := await self._leaderless():
            await asyncio.sleep(MEND_PAUSE_SECONDS)
            raise AssertionError(f"queues have no leader: {leaderless}")

    async def _leaderless(self) -> list[str]:
        def read() -> list[str]:
            with Administration(self._world.installation.servers.rabbitmq_api_url) as broker:
                found = broker.get(f"queues/{self._vhost}").raise_for_status().json()
            ours = {queue.name for queue in TOPOLOGY.queues}
            return [one["name"] for one in found if one["name"] in ours and "state" not in one]

        try:
            return await asyncio.to_thread(read)
        except httpx.HTTPError as error:
            await asyncio.sleep(MEND_PAUSE_SECONDS)
            raise AssertionError(f"the broker does not say: {error!r}") from error

    def _may_lose_messages(self, queue: str) -> None:
        if queue == QUEUE:
            late = time.monotonic() - WAITS_SECONDS
            self._world.perhaps_lost |= {
                id for id, at in self._world.malformed.items() if at > late
            }

    async def _restore_topology(self) -> None:
        """`chorus migrate`, and policies are deleted by hand."""
        installation = self._world.installation
        users = {service: installation.amqp_url(service) for service in SERVICES}

        def restore() -> None:
            with Administration(installation.servers.rabbitmq_api_url) as broker:
                if (answer := broker.delete(self._policy)).status_code != 404:
                    answer.raise_for_status()
                broker.apply(TOPOLOGY, users)

        try:
            await asyncio.to_thread(restore)
        except httpx.HTTPError as error:
            await asyncio.sleep(MEND_PAUSE_SECONDS)
            raise AssertionError(f"the topology is not restored: {error!r}") from error

    async def _call(self, method: str, path: str, body: object = None) -> None:
        """Raises httpx.HTTPError."""

        def call() -> None:
            with Administration(self._world.installation.servers.rabbitmq_api_url) as broker:
                broker.request(method, path, json=body).raise_for_status()

        await asyncio.to_thread(call)


async def mend(world: World, grace: timedelta) -> int:
    """`chorus dead replay --reason expired` and `chorus republish --missing`; returns how many events were published.

    What is younger than `grace` is left out. Raises an exception of DISTURBED.
    """
    installation = world.installation
    async with DeadLetters.of(installation.amqp_admin_url) as dead:
        expired = Chosen(reason="expired").among(await dead.hold(SERVICES))
        await dead.replay(expired)
    urls = {service: installation.database_admin_url(service) for service in SERVICES}
    publisher = Publisher(installation.amqp_admin_url, "chorus republish")
    try:
        async with reading(urls) as logs:
            view = await View(logs, (9,), grace).refreshed()
            counts = await publish_missing(publisher, logs, view)
    finally:
        await publisher.close()
    return len(expired) + counts.total()
