"""Runs one service in uvicorn until SIGTERM."""

import contextlib
import importlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from apps import SERVICES
from chassis.runtime.settings import settings

GRACEFUL_SECONDS = 4
"""How long uvicorn waits for open responses before the service stops. Part of its STOP_SECONDS."""

KEEP_ALIVE_SECONDS = 75
"""Longer than usual clients and proxies keep an idle connection: the client must close it first. Otherwise its next
request may use a connection that the server is closing."""

END_SECONDS = 2.0
"""How long the process may take to end once the service has stopped. An event loop ends with its last task, and a
connection of aio-pika to a silent broker may ignore its cancellation for ever."""


class Server(uvicorn.Server):
    """uvicorn, without raising a handled signal again: SIGTERM ends with exit status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM, until the process ends."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop, and end long responses."""
        super().handle_exit(sig, frame)
        if isinstance(app := self.config.app, FastAPI) and hasattr(app.state, "service"):
            app.state.service.ask_to_stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the service; END_SECONDS later the process ends, whatever is left."""
        await super().shutdown(sockets)
        ending = threading.Timer(END_SECONDS, os._exit, [0 if self.succeeded else 1])
        ending.daemon = True
        ending.start()

    @property
    def succeeded(self) -> bool:
        """Whether the service started and no background task failed."""
        service = getattr(getattr(self.config.app, "state", None), "service", None)
        return self.started and service is not None and not service.supervisor.failed


def serve(service: str, host: str, port: int | None) -> bool:
    """Run a service, on its default port if none is given. Returns whether it started and no background task failed.

    Raises LookupError if a setting is missing.
    """
    settings().database_url(service)
    settings().broker_url(service)
    app = importlib.import_module(f"apps.{service}.main").app
    server = Server(
        uvicorn.Config(
            app,
            host=host,
            port=port or 8001 + SERVICES.index(service),
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
    )
    with contextlib.suppress(SystemExit):  # uvicorn's own status, if the service cannot start
        server.run()
    return server.succeeded
