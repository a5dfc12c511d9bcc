"""Runs a service of a baseline in the same way as a service of Chorus.

The web server and its settings, the validation of requests and tokens, the headers, the logs and the settings of the
garbage collector are the same. Only the code behind the routes differs.
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
from starlette.types import ASGIApp

from apps import SERVICES
from chassis.database.pool import Database
from chassis.runtime import health as operations
from chassis.runtime.health import Readiness
from chassis.runtime.logs import configure_logging
from chassis.runtime.settings import settings
from chassis.runtime.supervisor import Supervisor
from chassis.web.app import Application
from chassis.web.auth import Verifier
from chassis.web.context import Telemetry, context_of
from chassis.web.dependencies import provide
from events.base import Causation
from ops.serve import GRACEFUL_SECONDS, KEEP_ALIVE_SECONDS, Server

written: Final = asyncio.Event()
"""Set when notifications have been written: wakes the mailer of the process."""

CONNECTIONS: Final = 16
"""The connections of one process to the database."""

Check = Callable[[], Awaitable[str]]
"""What is wrong with a server that the service needs; empty if it is available."""

Part = Callable[["Service"], AbstractAsyncContextManager[None]]
"""A part of the service: entered before the first request, left after the last one."""


class Service:
    """A running service. Chorus' routes, which are used as they are, find it at `app.state.service`."""

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
        """Connect, enter the parts in order, and leave them in reverse order, after the background tasks have ended."""
        await self.database.open()
        self.checks["database"] = self.database.fault
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            for part in parts:
                await stack.enter_async_context(part(self))
            stack.push_async_callback(self.supervisor.stop)
            _freeze_heap()
            yield

    def ask_to_stop(self) -> None:
        """End long responses, since the process is to stop."""
        self.stopping.set()


def _freeze_heap() -> None:
    """Exclude objects created at start from later garbage collections, as Chorus does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def service_of(request: Request) -> Service:
    """The service that received a request."""
    service: Service = request.app.state.service
    return service


def cause_of(request: Request) -> Causation:
    """The causation of a request: its correlation id and trace context."""
    return context_of(request).causation


class _Application(Application):
    """An application whose internal routes, those between services, may be of FastAPI's own route class."""

    def build_middleware_stack(self) -> ASGIApp:
        """What handles a connection."""
        return Telemetry(AsyncExitStackMiddleware(self.router))


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

    app = _Application(lifespan=lifespan)
    for router in (*routers, operations.router):
        app.routes.extend(router.routes)
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
    if not server.succeeded:
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
