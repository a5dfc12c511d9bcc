"""The whole of Chorus on servers of its own, two processes of each service, and a supervisor that restarts them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import aio_pika
import httpx
import stamina
from aio_pika.exceptions import AMQPError

from apps import SERVICES
from chassis.database.errors import CONNECTION_LOST
from chassis.messaging.errors import connection_may_be_lost
from chassis.messaging.topology import DEAD
from events.contracts import language
from tests.chaos.schedule import REPLICAS
from tests.stories.journal import Journal
from tests.stories.stack import Stack
from tests.support.broker import Broker
from tests.support.eventually import eventually
from tests.support.installation import Installation, install
from tests.support.processes import Processes, ServiceProcess
from tests.support.proxy import Proxy
from tests.support.servers import Servers
from tools.servers import PrivateServers, private_servers
from tools.servers.install import faketime_library, install_missing

RESTART_SECONDS: Final = 1.0
"""How long a supervisor waits before it starts again what has died."""

REQUEST_SECONDS: Final = 5.0
"""How long a customer waits for an answer."""

HEAL_SECONDS: Final = 90.0
QUIET_SECONDS: Final = 180.0


class NothingToDoError(Exception):
    """A fault came at a moment at which it could not be done."""


class Witness(Journal):
    """Everything that is published, through a queue of its own; goes on where it was when the broker comes back.

    Not through the stream `journal`: for moments after the broker has started, while the stream has no leader yet,
    RabbitMQ 3.10 confirms messages that the stream never gets.
    """

    queue = "chaos.witness"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._declare()
        self._following = asyncio.create_task(self._follow())
        while self._channel is None:  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
        await super().close()

    async def _declare(self) -> None:
        connection = await aio_pika.connect(self._url, timeout=5)
        async with connection:
            channel = await connection.channel()
            arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}
            queue = await channel.declare_queue(self.queue, durable=True, arguments=arguments)
            for kind in language().values():
                await queue.bind(kind.exchange, kind.key)

    async def _follow(self) -> None:
        while True:
            lost = asyncio.Event()
            try:
                with connection_may_be_lost():
                    connection = await aio_pika.connect(self._url, timeout=5)
                    connection.close_callbacks.add(partial(_set, lost))
                    channel = await connection.channel()
                    await channel.set_qos(prefetch_count=500)
                    queue = await channel.get_queue(self.queue, ensure=False)
                    await queue.consume(self._note)
                self._connection, self._channel = connection, channel
                await lost.wait()
            except (OSError, AMQPError):
                await asyncio.sleep(0.5)

    async def _note(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        with contextlib.suppress(AMQPError, OSError), connection_may_be_lost():  # it comes again
            await self._receive(message)


def _set(event: asyncio.Event, *_: object) -> None:
    event.set()


class World(Stack):
    """Two processes of each service. Those called "b" reach their servers through proxies that can be tampered with."""

    def __init__(
        self,
        installation: Installation,
        private: PrivateServers,
        folder: Path,
        proxies: dict[str, Proxy],
    ) -> None:
        super().__init__(installation, Processes(folder))
        self.journal = Witness(installation.amqp_admin_url)
        self.private = private
        self.proxies = proxies
        self.replicas: dict[str, ServiceProcess] = {}
        self.held: set[str] = set()
        """Replicas that the supervisor does not restart: a fault will do it."""
        self.malformed: dict[UUID, float] = {}
        """Ids under which malformed messages must be dead-lettered, and when they were sent (monotonic seconds)."""
        self.perhaps_lost: set[UUID] = set()
        """Those of them that may have been lost with their queue."""
        self.dice = random.Random()
        self._supervising: asyncio.Task[None] | None = None
        self._http: dict[str, httpx.AsyncClient] = {}

    async def start(self) -> None:
        """Start everything; returns once the journal is read and every process is ready."""
        self.proxies["mail"].point_at(await self._open_mail())
        for service in SERVICES:
            for replica in REPLICAS:
                self.replicas[f"{service} {replica}"] = self._replica(service, replica)
        await asyncio.gather(self.broker.open(), self.journal.open(), self._open_databases())
        for process in self.replicas.values():
            process.launch()
        await asyncio.gather(*(process.ready() for process in self.replicas.values()))
        await asyncio.sleep(1)  # a token's key is looked for again after half a second
        self._supervising = asyncio.create_task(self._supervise())

    async def _open_mail(self) -> int:
        await self.mail.open()
        return self.mail.port

    async def stop(self) -> None:
        if self._supervising is not None:
            self._supervising.cancel()
        for client in self._http.values():
            await client.aclose()
        await super().stop()

    def _replica(self, service: str, replica: str) -> ServiceProcess:
        name = f"{service} {replica}"
        self.set_clock(name, "+0")
        settings = {
            "CHORUS_OPERATOR_EMAIL": "operator@chorus.test",
            "CHORUS_OPERATOR_PASSWORD": "not a secret",
            # Its clock is what a file says, which is read again every second. Intervals stay as they are.
            "LD_PRELOAD": str(faketime_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock(name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "CHORUS_SMTP_PORT": str(
                self.proxies["mail"].port if replica == "b" else self.mail.port
            ),
        }
        if replica == "b":
            for what, url in {
                "database": self.installation.database_url(service),
                "broker": self.installation.amqp_url(service),
            }.items():
                setting = "DATABASE" if what == "database" else "AMQP"
                settings[f"CHORUS_{setting}_URL_{service.upper()}"] = self.proxies[what].url(url)
        made = self._processes.of(service, self.installation, settings=settings, name=name)
        if replica == "a":
            self._services[service] = made
        return made

    def running(self, name: str) -> ServiceProcess:
        """A replica that runs. Raises NothingToDoError."""
        process = self.replicas[name]
        if not process.child.running:
            raise NothingToDoError(f"{name} does not run")
        return process

    def set_clock(self, name: str, offset: str) -> None:
        """Make a replica's clock wrong by an offset such as "-90" (seconds), "+1h", "+30d"; "+0" makes it right."""
        new = self._clock(name).with_suffix(".new")
        new.write_text(offset)
        new.rename(self._clock(name))

    def _clock(self, name: str) -> Path:
        return self.private.folder / f"{name}.clock"

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for name, process in self.replicas.items():
                if not process.child.running and name not in self.held:
                    self.held.add(name)
                    asyncio.get_running_loop().call_later(RESTART_SECONDS, self._restart, name)

    def _restart(self, name: str) -> None:
        if not self.replicas[name].child.running:
            self.replicas[name].launch()
        self.held.discard(name)

    def http(self, service: str | ServiceProcess) -> httpx.AsyncClient:
        """A client of one of a service's processes, whichever comes first."""
        if isinstance(service, str):
            service = self.replicas[f"{service} {self.dice.choice(REPLICAS)}"]
        if service.url not in self._http:
            self._http[service.url] = httpx.AsyncClient(
                base_url=service.url, trust_env=False, timeout=REQUEST_SECONDS,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            )  # fmt: skip
        return self._http[service.url]

    async def is_healed(self) -> None:
        """Wait until every process is ready. Raises AssertionError with the process that is not, and its response."""
        for name, process in self.replicas.items():
            await eventually(partial(self._is_ready, name, process), within=HEAL_SECONDS)

    async def _is_ready(self, name: str, process: ServiceProcess) -> None:
        try:
            answer = await self.http(process).get("/ready")
        except httpx.HTTPError as error:
            raise AssertionError(f"{name} does not answer: {error!r}") from None
        assert answer.status_code == 200, f"{name} is not ready: {answer.text}"

    async def rows(self, service: str, sql: str, *values: Any) -> list[dict[str, Any]]:
        """What stands in a service's database; read again if a fault has left the connection unusable."""
        async for attempt in stamina.retry_context(on=CONNECTION_LOST, timeout=HEAL_SECONDS):
            with attempt:
                return await super().rows(service, sql, *values)
        raise AssertionError("unreachable")

    async def value(self, service: str, sql: str, *values: Any) -> Any:
        [row] = await self.rows(service, sql, *values)
        [value] = row.values()
        return value

    async def fresh_broker(self) -> None:
        """An administrator's new connection, after faults that the old one may not have survived."""
        with contextlib.suppress(AMQPError, OSError), connection_may_be_lost():
            await self.broker.close()
        self.broker = Broker(self.installation.amqp_admin_url)
        await self.broker.open()

    async def outboxes(self) -> int:
        """Rows that wait in all outboxes, those of the journal included."""
        waiting = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM journal_outbox)"
        return sum([await self.value(service, waiting) for service in SERVICES])

    async def unexplained_dead_letters(self) -> list[str]:
        """Empty the dead-letter queues. Return what was dead-lettered without being malformed, and the reverse."""
        missing, found = self.malformed.keys() - self.perhaps_lost, []
        for service in SERVICES:
            while (message := await self.broker.take(f"{service}.{DEAD}")) is not None:
                id = UUID(message.message_id or "00000000-0000-0000-0000-000000000000")
                missing.discard(
                    id
                )  # found twice: it was delivered again after it was dead-lettered
                if id not in self.malformed:
                    found.append(f"dead-lettered: {id} of {service}: {message.headers}")
        return found + [f"malformed message {id} is not dead-lettered" for id in missing]


@contextlib.asynccontextmanager
async def running_world() -> AsyncIterator[World]:
    """Everything from nothing on private servers, and gone at the end."""
    install_missing("faketime")
    with private_servers() as private:
        rabbitmq = private.rabbitmq
        servers = Servers(
            "native", private.postgres.url, rabbitmq.api_url, "127.0.0.1", rabbitmq.port
        )
        installation = await install(servers, "chaos")
        async with (
            Proxy.before(private.postgres.url) as database,
            Proxy.before(rabbitmq.amqp_url) as broker,
            Proxy.before("smtp://127.0.0.1:1") as mail,
        ):
            proxies = {"database": database, "broker": broker, "mail": mail}
            world = World(installation, private, private.folder, proxies)
            try:
                await world.start()
                yield world
            finally:
                await world.stop()
