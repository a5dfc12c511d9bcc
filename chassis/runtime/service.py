"""A service: what it is made of, and how it starts and stops."""

import asyncio
import contextlib
import gc
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

import asyncpg
import stamina
import structlog
from fastapi import APIRouter, FastAPI

from chassis.database.group_commit import OnCommit
from chassis.database.pool import START_SECONDS, Database
from chassis.database.transaction import Transaction
from chassis.messaging.addresses import BrokerAddresses
from chassis.messaging.broker import RabbitConsumer
from chassis.messaging.consumer import Consumer, Subscriptions
from chassis.messaging.dead_letters import DeadLetterQueue
from chassis.messaging.publisher import Publisher
from chassis.messaging.relay import Relay
from chassis.runtime import health
from chassis.runtime.backlog import count_dead_letters, count_outbox
from chassis.runtime.health import Readiness
from chassis.runtime.retention import purge_periodically
from chassis.runtime.settings import Settings, settings
from chassis.runtime.supervisor import Supervisor
from chassis.runtime.telemetry import Telemetry, configure_logging
from chassis.web import documents
from chassis.web.app import build_application
from chassis.web.auth import Verifier
from chassis.web.commands import Committers
from chassis.web.dependencies import provide

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 9.0
"""From the signal to stop until everything is closed or abandoned, whatever the servers do; Docker kills after ten."""

CLOSE_SECONDS: Final = 2.0
"""The last part of STOP_SECONDS: publish what the last transactions have written, and close."""

RELAY: Final = "relay"
"""The task that stops last: the others may write events until their end."""

Task = Callable[[], Coroutine[Any, Any, None]]
"""Begins a background task."""

Compose = Callable[["Service"], Awaitable[None]]
"""Adds what only one service has. Runs before the first request and message; a failure stops the start."""


async def _nothing_more(service: "Service") -> None:
    """Add nothing to what every service has."""


class Service:
    """A running service: its database, relay, consumers, background tasks, and the objects of its routes."""

    def __init__(
        self, app: FastAPI, name: str, subscriptions: Subscriptions, compose: Compose
    ) -> None:
        self.name = name
        self.settings: Settings = settings()
        self.supervisor = Supervisor()
        self.stopping = asyncio.Event()
        """Set by `chorus serve` at the signal, before uvicorn waits for open responses; long responses end then."""
        self._app = app
        self._subscriptions = subscriptions
        self._compose = compose
        self._stop_by = math.inf
        self._loop = asyncio.get_running_loop()
        self._on_commit: list[OnCommit] = []
        self._background: dict[str, Task] = {}
        self._consumers: list[Consumer[Any]] = []

    def provide(self, *objects: object) -> None:
        """Make objects available to the routes, each by its type."""
        provide(self._app, *objects)

    def on_commit(self, *callbacks: OnCommit) -> None:
        """Call these after each COMMIT of a request or a message."""
        self._on_commit += callbacks

    def run(self, **tasks: Task) -> None:
        """Run background tasks, by name, for as long as the service runs; if one ends by itself, the process ends."""
        self._background |= tasks

    def committed(self, tx: Transaction) -> None:
        """Wake the relay if the transaction has written events, then call what `on_commit` was given."""
        self.relay.committed(tx)
        for callback in self._on_commit:
            callback(tx)

    async def start(self) -> None:
        """Connect to the servers and compose, then begin to relay, to consume and to run background tasks."""
        self.database = Database(self.settings.database_url(self.name), self.name)
        await self.database.open()
        pool = self.database.pool
        broker_url = self.settings.broker_url(self.name)
        self.relay = Relay(pool, Publisher(broker_url, f"{self.name} relay"))
        self.committers = Committers(self.name, pool, self.committed)
        self.provide(self, self.database, self.committers, Verifier(pool))
        await self._compose(self)
        self.supervisor.start(RELAY, self.relay.run())
        await self._consume(broker_url)
        self.provide(Readiness(database=self.database.answers, broker=self.broker.answers))
        self.run(
            consumers=self.broker.keep_consuming,
            retention=partial(purge_periodically, pool, self.relay.committed),
            outbox_gauges=partial(count_outbox, pool),
            dead_letter_gauge=partial(count_dead_letters, self.broker, self.name),
        )
        for name, task in self._background.items():
            self.supervisor.start(name, task())
        _settle_memory()
        log.info("service.started")

    async def _consume(self, broker_url: str) -> None:
        self._dead_letter_publisher = Publisher(broker_url, f"{self.name} dead letters")
        self.broker = RabbitConsumer(
            BrokerAddresses(broker_url, f"{self.name} consumers"),
            app_id=self.name,
            graceful_timeout=STOP_SECONDS,
            reconnect_interval=1.0,
            logger=None,
            apply_types=False,
        )
        dead_letters = DeadLetterQueue(self.name, self._dead_letter_publisher)
        self._consumers = [
            Consumer(self.name, one, self.broker, self.database.pool, dead_letters, self.committed)
            for one in self._subscriptions
        ]
        async for attempt in stamina.retry_context(
            on=OSError, attempts=None, timeout=START_SECONDS
        ):
            with attempt:
                await self.broker.start()

    def ask_to_stop(self) -> None:
        """Start the time that a stop may take. Long responses end."""
        if not self.stopping.is_set():
            self._stop_by = self._loop.time() + STOP_SECONDS
        self.stopping.set()

    async def stop(self) -> None:
        """Consume nothing more, finish what has begun, publish what it has written, close.

        Work that an unresponsive server holds up is abandoned in time, and nothing is lost by that: an unacknowledged
        message is delivered again, a transaction without COMMIT is rolled back, and the outbox keeps its rows.
        """
        self.ask_to_stop()
        await _within(self._stop_by - CLOSE_SECONDS, self._finish())
        if await _within(self._stop_by, self._close()):
            log.info("service.stopped")
        else:
            self.supervisor.cancel()
            self.database.abandon()
            log.warning("service.stopped_hard")

    async def _finish(self) -> None:
        await asyncio.gather(
            self.broker.stop(),
            self.supervisor.stop(but=RELAY),
            self.committers.drain(),
            *(consumer.committer.drain() for consumer in self._consumers),
            return_exceptions=True,
        )

    async def _close(self) -> None:
        with contextlib.suppress(Exception):
            # What the last transactions have written; the rest is published after the next start.
            await self.relay.move()
        await self.supervisor.stop()
        await self._dead_letter_publisher.close()
        await self.database.close()


async def _within(deadline: float, work: Coroutine[Any, Any, None]) -> bool:
    """Whether work is done by a moment of the loop's clock. If not it is cancelled, and not waited for any more."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    done, _ = await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))
    task.cancel()
    return bool(done)


def _settle_memory() -> None:
    """Leave what was made at start out of every later garbage collection, and collect less often.

    Requests and batches free their memory by reference counts; walking the modules of all libraries again and
    again for the rare cycle took a third of the time of a busy service. Not too seldom, though: messages of the broker
    are in such cycles, and large.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 5)


def create_app(
    name: str,
    package: str | None = None,
    *,
    description: str,
    router: APIRouter,
    subscriptions: Subscriptions,
    compose: Compose = _nothing_more,
) -> FastAPI:
    """The application of a service; `package` is the one that holds its `documents/`.

    Raises TypeError if one of its routes is not strict.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logging(settings(), name)
        service = app.state.service = Service(app, name, subscriptions, compose)
        try:
            await service.start()
        except (OSError, asyncpg.PostgresError) as error:
            log.critical("service.cannot_start", error=repr(error))
            raise
        yield
        await service.stop()

    app = build_application(
        name,
        description=description,
        routers=[router, health.router, documents.router(name, package)],
        lifespan=lifespan,
        tags={str(tag): description for tag in router.tags}
        | {"operations": inspect.getdoc(health) or ""},
    )
    app.add_middleware(Telemetry)
    return app
