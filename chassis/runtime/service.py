"""The runtime of a service: composition, start and stop."""

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

from chassis.database.pool import START_SECONDS, Database, UnsafeDatabaseError
from chassis.database.transaction import Transaction
from chassis.messaging.addresses import BrokerAddresses
from chassis.messaging.broker import RabbitConsumer
from chassis.messaging.consumer import Consumer, Subscriptions
from chassis.messaging.dead_letters import DeadLetterQueue
from chassis.messaging.publisher import Publisher
from chassis.messaging.relay import TO_JOURNAL, TO_SUBSCRIBERS, Relay
from chassis.runtime import health
from chassis.runtime.backlog import measure_dead_letters, measure_outboxes, poll
from chassis.runtime.health import Readiness
from chassis.runtime.logs import configure_logging
from chassis.runtime.retention import keep_event_log, purge_periodically
from chassis.runtime.settings import Settings, settings
from chassis.runtime.supervisor import Supervisor
from chassis.runtime.topology_watch import TopologyWatch
from chassis.web import documents
from chassis.web.app import build_application
from chassis.web.auth import Verifier
from chassis.web.commands import Committers
from chassis.web.dependencies import provide

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 9.0
"""The most time from the stop signal until everything is closed or abandoned; Docker kills after ten seconds."""

CLOSE_SECONDS: Final = 2.0
"""The part of STOP_SECONDS that is left for publishing the last events and closing connections."""

JOURNAL_SECONDS: Final = 0.5
"""The part of CLOSE_SECONDS for the journal, which the next start may complete."""

RELAYS: Final = ("relay", "journal relay")
"""The tasks that stop last: the others may write events until they end."""

Task = Callable[[], Coroutine[Any, Any, None]]
"""Makes the coroutine of a background task."""

Compose = Callable[["Service"], Awaitable[None]]
"""Adds what is specific to a service, before the first request and message. An exception aborts the start."""


class Service:
    """A running service: its database, relay, consumers, background tasks, and the dependencies of its routes."""

    def __init__(
        self, app: FastAPI, name: str, subscriptions: Subscriptions, compose: Compose | None
    ) -> None:
        self.name = name
        self.settings: Settings = settings()
        self.supervisor = Supervisor()
        self.stopping = asyncio.Event()
        """Set by `chorus serve` at the stop signal, before uvicorn waits for open responses; streams end then."""
        self._app = app
        self._subscriptions = subscriptions
        self._compose = compose
        self._stop_by = math.inf
        self._loop = asyncio.get_running_loop()
        self.on_commit: list[Callable[[Transaction], None]] = []
        """Called after each COMMIT of a request or a message."""
        self._background: dict[str, Task] = {}
        self._consumers: list[Consumer[Any]] = []

    def provide(self, *objects: object) -> None:
        """Provide objects to the routes, each by its type."""
        provide(self._app, *objects)

    def run(self, **tasks: Task) -> None:
        """Add background tasks by name. They run until the service stops; if one ends by itself, the process ends."""
        self._background |= tasks

    async def start_unless_stopped(self) -> bool:
        """Start. Returns False at once if the service is asked to stop before: a start has nothing to finish."""
        starting = self._loop.create_task(self.start())
        stopping = self._loop.create_task(self.stopping.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            await starting
            return True
        starting.cancel()
        self.supervisor.cancel()
        log.info("service.stopped")
        return False

    async def start(self) -> None:
        """Connect to the servers and compose, then start the relay, the consumers and the background tasks."""
        self.database = Database(
            self.settings.database_url(self.name),
            self.name,
            allow_unsafe=self.settings.allow_unsafe_database,
        )
        await self.database.open()
        pool = self.database.pool
        await keep_event_log(
            pool, self.settings.event_log_days
        )  # before an event needs its partition
        broker_url = self.settings.broker_url(self.name)
        to_journal = Publisher(broker_url, f"{self.name} journal")
        self.journal_relay = Relay(pool, to_journal, TO_JOURNAL)
        self.relay = Relay(
            pool,
            Publisher(broker_url, f"{self.name} relay"),
            TO_SUBSCRIBERS,
            self.journal_relay.wake,
        )
        self.on_commit.append(self.relay.committed)
        self.committers = Committers(self.name, pool, self.on_commit)
        verifier = Verifier(pool)
        self.provide(self, self.database, self.committers, verifier)
        self.run(signing_keys=verifier.poll)
        if self._compose:
            await self._compose(self)
        for name, relay in zip(RELAYS, (self.relay, self.journal_relay), strict=True):
            self.supervisor.start(name, relay.run())
        await self._consume(broker_url)
        self.provide(self._readiness(self._watch_topology(broker_url)))
        self.run(
            consumers=self.broker.keep_consuming,
            retention=partial(purge_periodically, pool, self.settings.event_log_days),
            outbox_gauges=partial(poll, measure_outboxes, pool),
            dead_letter_gauge=partial(poll, measure_dead_letters, self.broker, self.name),
        )
        for name, task in self._background.items():
            self.supervisor.start(name, task())
        _tune_garbage_collection()
        log.info("service.started")

    def _watch_topology(self, broker_url: str) -> Callable[[], str]:
        """Add the task that watches the topology, if the management API is known. Returns what it remarks."""
        if not self.settings.rabbitmq_api_url:
            log.info("topology.not_watched")
            return str
        consumed = (one.event for one in self._subscriptions)
        api_url = self.settings.rabbitmq_api_url.get_secret_value()
        watch = TopologyWatch(self.name, consumed, api_url, broker_url)
        self.run(topology_watch=watch.run)
        return watch.remarks

    def _readiness(self, remarks: Callable[[], str]) -> Readiness:
        return Readiness(
            remarks,
            database=self.database.fault,
            broker=self.broker.fault,
            publishing=self.relay.fault,
            dead_lettering=self._dead_letters.failures.fault,
            tasks=self.supervisor.fault,
        )

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
        self._dead_letters = dead_letters = DeadLetterQueue(self.name, self._dead_letter_publisher)
        self._consumers = [
            Consumer(self.name, one, self.broker, self.database.pool, dead_letters, self.on_commit)
            for one in self._subscriptions
        ]
        async for attempt in stamina.retry_context(
            on=OSError, attempts=None, timeout=START_SECONDS
        ):
            with attempt:
                await self.broker.start()

    def ask_to_stop(self) -> None:
        """Begin the stop: STOP_SECONDS start, and streams end."""
        if not self.stopping.is_set():
            self._stop_by = self._loop.time() + STOP_SECONDS
        self.stopping.set()

    async def stop(self) -> None:
        """Stop consuming, finish open transactions, publish their events, close all connections.

        Work that waits for an unresponsive server is abandoned in time without loss: an unacknowledged message is
        redelivered, a transaction without COMMIT is rolled back, and the outbox keeps its rows.
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
            self.supervisor.stop(but=RELAYS),
            self.committers.drain(),
            *(consumer.committer.drain() for consumer in self._consumers),
            return_exceptions=True,
        )

    async def _close(self) -> None:
        with contextlib.suppress(Exception):
            # The events of the last transactions; any others are published after the next start.
            await self.relay.move()
            async with asyncio.timeout(JOURNAL_SECONDS):
                await self.journal_relay.move()
        await self.supervisor.stop()
        await self._dead_letter_publisher.close()
        await self.database.close()


async def _within(deadline: float, work: Coroutine[Any, Any, None]) -> bool:
    """Whether work is done by a deadline of the loop's clock. Otherwise cancels it, without waiting for its end."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    done, _ = await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))
    task.cancel()
    return bool(done)


def _tune_garbage_collection() -> None:
    """Exclude all objects made so far from garbage collection, and collect less often.

    Requests and batches are freed by reference counting; scanning the modules of all libraries for rare cycles took a
    third of the time of a busy service. The intervals stay moderate: AMQP messages are large and in such cycles.
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
    compose: Compose | None = None,
) -> FastAPI:
    """The application of a service; `package` is the one that holds its `documents/`.

    Raises TypeError if one of its routes is not strict.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logging(settings(), name)
        service = app.state.service = Service(app, name, subscriptions, compose)
        try:
            started = await service.start_unless_stopped()
        except (OSError, asyncpg.PostgresError, UnsafeDatabaseError) as error:
            log.critical("service.cannot_start", error=repr(error))
            raise
        yield
        if started:
            await service.stop()

    return build_application(
        name,
        description=description,
        routers=[router, health.router, documents.router(name, package)],
        lifespan=lifespan,
        tags={str(tag): description for tag in router.tags}
        | {"operations": inspect.getdoc(health) or ""},
    )
