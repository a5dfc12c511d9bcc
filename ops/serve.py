"""Runs one service in uvicorn until SIGTERM."""

import asyncio
import contextlib
import faulthandler
import importlib
import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI
from pydantic_settings import BaseSettings

from apps import SERVICES
from chassis.messaging.addresses import node_urls, trusted
from chassis.runtime.settings import Settings, read, settings
from chassis.web.protocol import LimitedProtocol, Limits

GRACEFUL_SECONDS = 4
"""How long uvicorn waits for open responses before the service stops. Part of its STOP_SECONDS."""

KEEP_ALIVE_SECONDS = 75
"""Longer than usual clients and proxies keep an idle connection: the client must close it first. Otherwise its next
request may use a connection that the server is closing."""

END_SECONDS = 1.0
"""How long the process may take to end once the service has stopped. An event loop ends with its last task, and a
connection of aio-pika to a silent broker may ignore its cancellation for ever."""

BLOCKED_SECONDS = 10.0
"""After this time the process ends if its event loop does not run, or has not stopped the service."""

BEAT_SECONDS = 1.0
"""How often a running event loop defers that end."""


OPEN_FILES = 65_536
"""How many open files a process may have, if its hard limit permits it."""


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
        _end_within(BLOCKED_SECONDS)
        super().handle_exit(sig, frame)
        if isinstance(app := self.config.app, FastAPI) and hasattr(app.state, "service"):
            app.state.service.ask_to_stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the service; from now on the process ends if its event loop is blocked."""
        self._beating = asyncio.create_task(self._beat())
        await super().startup(sockets)

    async def _beat(self) -> None:
        while not self.should_exit:
            _end_within(BLOCKED_SECONDS)
            await asyncio.sleep(BEAT_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the service; END_SECONDS later the process ends, whatever is left."""
        await super().shutdown(sockets)
        _end_within(2 * END_SECONDS)  # should there be no memory for another thread
        ending = threading.Timer(END_SECONDS, os._exit, [0 if self.succeeded else 1])
        ending.daemon = True
        ending.start()

    @property
    def succeeded(self) -> bool:
        """Whether the service started and no background task failed."""
        service = getattr(getattr(self.config.app, "state", None), "service", None)
        return self.started and service is not None and not service.supervisor.failed


def _end_within(seconds: float) -> None:
    """Have the process end with status 1, and its stacks in the log, unless this is called again before.

    The thread that does it is written in C: it needs neither the interpreter's lock nor memory.
    """
    try:
        faulthandler.dump_traceback_later(seconds, exit=True)
    except (MemoryError, RuntimeError):  # no thread can be started
        os._exit(1)


def _allow_open_files() -> None:
    """Raise the soft limit of open files, often 1024: the connections of one client must not use it up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))


def _limits(configured: Settings) -> Limits:
    return Limits(
        url_bytes=configured.http_url_bytes,
        header_bytes=configured.http_header_bytes,
        headers=configured.http_headers,
        head_seconds=configured.http_head_seconds,
        body_seconds=configured.http_body_seconds,
        connections=configured.connections_per_address,
        proxies=configured.proxies(),
    )


def _check_certificate() -> None:
    """Raises LookupError if the certificate and the key of the settings cannot be used together."""
    certificate, key = settings().tls_certificate, settings().tls_key
    if certificate is None and key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate or "", key)
    except OSError as error:
        raise LookupError(
            f"CHORUS_TLS_CERTIFICATE and CHORUS_TLS_KEY cannot be used: {error.strerror}"
        ) from None


def serve(service: str, host: str, port: int | None) -> bool:
    """Run a service, on its default port if none is given. Returns whether it started and no background task failed.

    Raises LookupError if a setting is missing or not valid.
    """
    settings().database_url(service)
    for url in node_urls(settings().broker_url(service)):
        trusted(url)
    _check_certificate()
    proxies = settings().proxies()
    LimitedProtocol.limits = _limits(settings())
    _allow_open_files()
    app = importlib.import_module(f"apps.{service}.main").app
    for kind in BaseSettings.__subclasses__():  # those of the service's channels as well
        read(kind)
    server = Server(
        uvicorn.Config(
            app,
            host=host,
            port=port or 8001 + SERVICES.index(service),
            ssl_certfile=settings().tls_certificate,
            ssl_keyfile=settings().tls_key,
            loop="uvloop",
            http=LimitedProtocol,
            ws="none",
            access_log=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=[str(network) for network in proxies],
            server_header=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
    )
    with contextlib.suppress(SystemExit):  # uvicorn's own status, if the service cannot start
        server.run()
    return server.succeeded
