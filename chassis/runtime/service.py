"""Makes a service out of its parts: HTTP routes, an inbox, background tasks, and the servers they need."""

import asyncio
import contextlib
import gc
import inspect
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import stamina
import structlog
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.database.group_commit import GroupCommitter, Work
from chassis.database.pool import START_SECONDS, Database
from chassis.messaging.addresses import BrokerAddresses
from chassis.messaging.broker import RabbitConsumer
from chassis.messaging.consumer import Consumer, Inbox
from chassis.messaging.dead_letters import DeadLetterQueue
from chassis.messaging.publisher import Publisher
from chassis.messaging.relay import Relay
from chassis.runtime import health as operations
from chassis.runtime.backlog import count_dead, count_outbox
from chassis.runtime.retention import keep_purging
from chassis.runtime.settings import Settings, settings
from chassis.runtime.supervisor import Supervisor
from chassis.runtime.telemetry import Telemetry, configure_logging
from chassis.web import documents, openapi, problems
from chassis.web import routing as strict
from chassis.web.auth import Verifier, remember_signing_keys
from chassis.web.idempotency import Answer, IdempotentRequest, idempotent
from chassis.web.routing import StrictRoute
from events.base import Event
from events.users import SigningKeyPublished
from tools.asyncapi.document import Described

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 5.0
"""How long a request waits for a database that is away before it is answered with 503. One that was connected and has
fallen silent is noticed after `SILENCE_SECONDS`."""

STOP_SECONDS = 9.0
"""From the signal to stop until all is closed or given up, whatever the servers do; after ten, Docker kills."""

CLOSE_SECONDS = 2.0
"""What is left of them, once what has begun is finished or given up, to publish what it has written and to close."""

RELAY = "relay"
"""The task that ends last: the others may have something to tell until their end."""

Background = Callable[["Service"], Coroutine[Any, Any, None]]
"""A task that runs as long as the service does."""

Preparation = Callable[["Service"], Coroutine[Any, Any, None]]
"""Work that must be done before the first request; a service that cannot do it does not start."""


async def _nothing(service: "Service") -> None:
    """Most services have nothing to prepare."""


class Service:
    """A running service: its servers, its doors and its background tasks."""

    def __init__(
        self, name: str, inbox: Inbox, prepare: Preparation, background: Sequence[Background]
    ) -> None:
        self.name = name
        self.inbox = inbox
        self.settings: Settings = settings()
        self.supervisor = Supervisor()
        self.stopping = asyncio.Event()
        """Set by `chorus serve` at the signal, before uvicorn waits for open answers; long answers end then."""
        self._stop_by = math.inf
        self._loop = asyncio.get_running_loop()
        self._prepare = prepare
        self._background = background
        self._committers: dict[Any, GroupCommitter[Any, Any]] = {}
        self._consumers: list[Consumer[Any]] = []

    async def start(self) -> None:
        """Connect to the servers and prepare, then begin to relay, to hear and to work."""
        self.database = Database(self.settings.database_url(self.name), self.name)
        await self.database.open()
        broker_url = self.settings.broker_url(self.name)
        self.verifier = Verifier(self.database.pool)
        self.relay = Relay(self.database.pool, Publisher(broker_url, f"{self.name} relay"))
        await self._prepare(self)
        self.supervisor.start(RELAY, self.relay.run())
        self._dead_letter_publisher = Publisher(broker_url, f"{self.name} parking")
        self.broker = RabbitConsumer(
            BrokerAddresses(broker_url, f"{self.name} inbox"),
            app_id=self.name,
            graceful_timeout=STOP_SECONDS,
            reconnect_interval=1.0,
            logger=None,
            apply_types=False,
        )
        dead_letters = DeadLetterQueue(self.name, self._dead_letter_publisher)
        self._consumers = self.inbox.attach(
            self.broker, self.database.pool, dead_letters, self.relay.wake
        )
        async for attempt in stamina.retry_context(
            on=OSError, attempts=None, timeout=START_SECONDS
        ):
            with attempt:
                await self.broker.start()
        self.supervisor.start("hearing", self.broker.keep_consuming())
        for work in (keep_purging, count_outbox, count_dead, *self._background):
            self.supervisor.start(work.__name__, work(self))
        _settle_memory()
        log.info("service.started")

    def ask_to_stop(self) -> None:
        """Say that the signal has come; from now on time runs. Long answers end."""
        if not self.stopping.is_set():
            self._stop_by = self._loop.time() + STOP_SECONDS
        self.stopping.set()

    async def stop(self) -> None:
        """Hear nothing more, finish what has begun, publish what it has written, close.

        What a server that has fallen silent holds up is given up in time, and nothing is lost by that: a message that
        is not acknowledged comes again, a transaction that is not committed never was, and the outbox waits.
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
        committers = [
            *self._committers.values(),
            *(received.committer for received in self._consumers),
        ]
        await asyncio.gather(
            self.broker.stop(),
            self.supervisor.stop(but=RELAY),
            *(committer.drain() for committer in committers),
            return_exceptions=True,
        )

    async def _close(self) -> None:
        with contextlib.suppress(Exception):
            # What the last transactions have written; the rest waits for the next start.
            await self.relay.move()
        await self.supervisor.stop()
        await self._dead_letter_publisher.close()
        await self.database.close()

    def committer(self, use_case: Work[Any, Any]) -> GroupCommitter[IdempotentRequest[Any], Answer]:
        """The group committer behind the HTTP door to a use case."""
        if use_case not in self._committers:
            self._committers[use_case] = GroupCommitter(
                self.database.pool,
                idempotent(use_case),
                name=f"{self.name}.{use_case.__name__}",
                published=self.relay.wake,
                patience=PATIENCE_SECONDS,
            )
        return self._committers[use_case]

    async def ready(self) -> dict[str, bool]:
        """Whether the servers answer, each by a round trip with a time limit, and all queues are heard."""
        database, broker = await asyncio.gather(self.database.answers(), self.broker.answers())
        return {"database": database, "broker": broker}


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


class Application(FastAPI):
    """FastAPI with one layer of its own around the routes, the handlers of errors, and those that are added to it.

    The five others that it puts around every request serve what no service has, or what `Telemetry` does already.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """The layers, made once; what was added last is outermost."""
        app: ASGIApp = ExceptionMiddleware(self.router, self.exception_handlers)
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, without looking each time whether FastAPI's own telemetry is wanted."""
        await Starlette.__call__(self, scope, receive, send)


def create_app(
    name: str,
    *,
    description: str,
    router: APIRouter,
    inbox: Inbox,
    prepare: Preparation = _nothing,
    background: Sequence[Background] = (),
) -> FastAPI:
    """The ASGI application of a service. Raises TypeError if one of its routes is not strict."""
    if not all(isinstance(route, StrictRoute) for route in router.routes):
        raise TypeError(f"{name}: the router needs route_class=StrictRoute")
    inbox.hears(SigningKeyPublished)(remember_signing_keys)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logging(settings(), name)
        service = app.state.service = Service(name, inbox, prepare, background)
        try:
            await service.start()
        except (OSError, asyncpg.PostgresError) as error:
            log.critical("service.cannot_start", error=repr(error))
            raise
        yield
        await service.stop()

    app = Application(
        title=f"Chorus {name}",
        description=description,
        version="1",
        license_info={"name": "MIT"},
        servers=[{"url": "/", "description": "The service that gives this document."}],
        openapi_tags=[
            *({"name": tag, "description": description} for tag in router.tags),
            {"name": "operations", "description": operations.__doc__},
        ],
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Telemetry)
    problems.install(app)
    strict.install(app)
    openapi.install(app)
    described = documents.router(Described(name, description, _reactions(inbox)))
    for part in (router, operations.router, described):
        # As they are: an included router has its routes looked for twice with each request.
        app.routes.extend(part.routes)
    return app


def _reactions(inbox: Inbox) -> dict[type[Event], str]:
    """What a service does about each event that it hears, in its own words."""
    return {kind: inspect.getdoc(received) or "" for kind, received in inbox.subscribers.items()}
