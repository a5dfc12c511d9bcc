"""Runs a service of a baseline, as Chorus runs its own.

The web server and its settings are the same, and so are the checks of requests and tokens, the headers, the logs and
the care for memory. Only what is behind the routes differs.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware

from apps import SERVICES
from chassis.database.pool import Database
from chassis.runtime import health as operations
from chassis.runtime.health import Readiness
from chassis.runtime.settings import settings
from chassis.runtime.supervisor import Supervisor
from chassis.runtime.telemetry import Telemetry, configure_logging
from chassis.signal import Signal
from chassis.web import problems
from chassis.web import routing as strict
from chassis.web.app import Application
from chassis.web.auth import Verifier
from chassis.web.context import causation_of
from chassis.web.dependencies import provide
from events.base import Causation
from ops.serve import GRACEFUL_SECONDS, KEEP_ALIVE_SECONDS, Server

written: Final = Signal()
"""Set when notifications have been written: wakes the mailer of the process."""

CONNECTIONS: Final = 16
"""To the database, from one process."""

Check = Callable[[], Awaitable[bool]]
"""Whether a server that the service needs answers."""

Part = Callable[["Service"], AbstractAsyncContextManager[None]]
"""What runs for as long as the service does: entered before the first request, left after the last one."""


class Service:
    """A running service: what Chorus' own routes expect to find at `app.state.service`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = settings()
        self.database = Database(self.settings.database_url(name), name, size=CONNECTIONS)
        self.supervisor = Supervisor()
        self.stopping = asyncio.Event()
        self.checks: dict[str, Check] = {}
        self.objects: list[object] = []
        """What the routes of this service need beside what those of every service do."""

    @contextlib.asynccontextmanager
    async def running(self, parts: Sequence[Part]) -> AsyncIterator[None]:
        """Connect, enter the parts in order, and leave them in the opposite order; background tasks end first."""
        await self.database.open()
        self.checks["database"] = self.database.answers
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            for part in parts:
                await stack.enter_async_context(part(self))
            stack.push_async_callback(self.supervisor.stop)
            _settle_memory()
            yield

    def ask_to_stop(self) -> None:
        """Say that the signal has come: long answers end."""
        self.stopping.set()


def _settle_memory() -> None:
    """As Chorus does it: what was made at start is left out of every later garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def service_of(request: Request) -> Service:
    """The service that a request has come to."""
    service: Service = request.app.state.service
    return service


def cause_of(request: Request) -> Causation:
    """The causation of a request."""
    return causation_of(request)


def create_app(name: str, routers: Sequence[APIRouter], parts: Sequence[Part] = ()) -> FastAPI:
    """The ASGI application of a service."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logging(settings(), name)
        service = app.state.service = Service(name)
        async with service.running(parts):
            provide(
                app,
                service.database,
                Verifier(service.database.pool),
                Readiness(**service.checks),
                *service.objects,
            )
            yield

    app = Application(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    # FastAPI's own, for the routes that are not strict: those that services call.
    app.add_middleware(AsyncExitStackMiddleware)
    app.add_middleware(Telemetry)
    problems.install(app)
    strict.install(app)
    for router in (*routers, operations.router):
        app.include_router(router)
    return app


def main(baseline: str) -> None:
    """Run one service until SIGTERM. The exit status is 1 if one of its background tasks died."""
    parser = argparse.ArgumentParser(f"python -m bench.baselines.{baseline}")
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    try:
        app: FastAPI = importlib.import_module(
            f"bench.baselines.{baseline}.{arguments.service}"
        ).app
        server = Server(_config(app, arguments.host, arguments.port))
        server.run()
    except LookupError as error:
        parser.error(str(error.args[0] if error.args else error))
    started: Service | None = getattr(app.state, "service", None)
    if not server.started or started is None or started.supervisor.failed:
        sys.exit(1)


def _config(app: FastAPI, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
