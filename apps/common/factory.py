"""Makes a service out of its parts: HTTP routes, an inbox, background tasks, and the servers they need."""

import asyncio
import contextlib
import gc
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import stamina
import structlog
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPConnectionError
from fastapi import APIRouter, FastAPI
from faststream.rabbit import RabbitBroker

from apps.common import documents, openapi, operations, problems, strict
from apps.common.asyncapi import Described
from apps.common.auth import Verifier, remember_signing_keys
from apps.common.database import START_SECONDS, Database
from apps.common.idempotency import Answer, Asked, answering
from apps.common.retention import keep_forgetting
from apps.common.settings import Settings, settings
from apps.common.strict import StrictRoute
from apps.common.supervisor import Supervisor
from apps.common.telemetry import Telemetry, configure_logging
from events.base import Event
from events.bus.committer import GroupCommitter, Work
from events.bus.inbox import Inbox, Listener
from events.bus.parking import Parking
from events.bus.publisher import Publisher
from events.bus.relay import Relay
from events.users import SigningKeyPublished

log = structlog.get_logger(__name__)

PATIENCE_SECONDS = 5.0
"""How long a request waits for a database that is away before it is answered with 503. One that was connected and has
fallen silent is noticed after `SILENCE_SECONDS`."""

DRAIN_SECONDS = 8.0
"""How long a service that stops waits for what it has begun."""

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
        self._prepare = prepare
        self._background = background
        self._committers: dict[Any, GroupCommitter[Any, Any]] = {}
        self._listeners: list[Listener[Any]] = []

    async def start(self) -> None:
        """Connect to the servers and prepare, then begin to relay, to hear and to work."""
        self.database = Database(self.settings.database_url(self.name), self.name)
        await self.database.open()
        broker_url = self.settings.broker_url(self.name)
        self.verifier = Verifier(self.database.pool)
        self.relay = Relay(self.database.pool, Publisher(broker_url, f"{self.name} relay"))
        await self._prepare(self)
        self.supervisor.start("relay", self.relay.run())
        self._parking_publisher = Publisher(broker_url, f"{self.name} parking")
        self.broker = RabbitBroker(
            str(make_url(broker_url).update_query(heartbeat="10", name=f"{self.name} inbox")),
            app_id=self.name,
            graceful_timeout=DRAIN_SECONDS,
            reconnect_interval=1.0,
            logger=None,
            apply_types=False,
        )
        parking = Parking(self.name, self._parking_publisher)
        self._listeners = self.inbox.attach(
            self.broker, self.database.pool, parking, self.relay.wake
        )
        async for attempt in stamina.retry_context(
            on=(OSError, AMQPConnectionError), attempts=None, timeout=START_SECONDS
        ):
            with attempt:
                await self.broker.start()
        for work in (keep_forgetting, *self._background):
            self.supervisor.start(work.__name__, work(self))
        _settle_memory()
        log.info("service.started")

    async def stop(self) -> None:
        """Hear nothing more, finish what has begun, close."""
        self.stopping.set()
        deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
        with contextlib.suppress(Exception):
            await self.broker.stop()
        draining = [c.drain() for c in self._committers.values()]
        draining += [listener.committer.drain() for listener in self._listeners]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await asyncio.gather(*draining)
        with contextlib.suppress(Exception):
            # What the last transactions have written; the rest waits for the next start.
            await self.relay.move()
        await self.supervisor.stop()
        await self._parking_publisher.close()
        await self.database.close()
        log.info("service.stopped")

    def committer(self, use_case: Work[Any, Any]) -> GroupCommitter[Asked[Any], Answer]:
        """The group committer behind the HTTP door to a use case."""
        if use_case not in self._committers:
            self._committers[use_case] = GroupCommitter(
                self.database.pool,
                answering(use_case),
                name=f"{self.name}.{use_case.__name__}",
                published=self.relay.wake,
                patience=PATIENCE_SECONDS,
            )
        return self._committers[use_case]

    async def ready(self) -> dict[str, bool]:
        """Whether the servers answer, each by a round trip with a time limit."""
        database, broker = await asyncio.gather(self.database.answers(), self._broker_answers())
        return {"database": database, "broker": broker}

    async def _broker_answers(self) -> bool:
        # FastStream's ping says yes to a frozen broker.
        try:
            async with asyncio.timeout(2):
                channel = await self.broker._connection.channel()  # type: ignore[union-attr]  # noqa: SLF001
                await channel.close()
            return True
        except (OSError, TimeoutError, AttributeError, RuntimeError, asyncio.CancelledError):
            return False
        except Exception as error:
            log.warning("service.broker_not_ready", error=repr(error))
            return False


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

    app = FastAPI(
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
    return {kind: inspect.getdoc(heard) or "" for kind, heard in inbox.subscribers.items()}
