"""What a service tells of itself: logs, metrics, and the correlation of everything that belongs to one flow."""

import asyncio
import logging
import random
import re
import secrets
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from chassis.runtime.settings import Settings
from chassis.web.problems import failed, given_up
from chassis.web.routing import HEAD
from events.base import Causation

CORRELATION_HEADER: Final = "X-Correlation-Id"
_CORRELATION_NAME: Final = CORRELATION_HEADER.lower().encode()
GONE: Final = 499
"""Counted where the client has gone before any answer."""
_CORRELATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}", re.ASCII)
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

REQUESTS = Counter("chorus_http_requests_total", "Requests.", ["method", "route", "status"])
SECONDS = Histogram(
    "chorus_http_seconds",
    "Time to the end of the answer.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30),
)


def configure_logging(settings: Settings, service: str) -> None:
    """Logs are events with keys, on standard error, readable or as JSON lines."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The pretty one prints local variables, which may be secrets.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    # Libraries that log in the usual way get the same form, and a key that says which library it is.
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[libraries], force=True)


def cause_of(headers: Mapping[bytes, bytes]) -> Causation:
    """The flow of a request: the client's correlation id and trace, if they are well formed, else new ones."""
    correlation_id = headers.get(_CORRELATION_NAME, b"").decode("latin-1")
    if not _CORRELATION.fullmatch(correlation_id):
        correlation_id = str(uuid7())
    traceparent = headers.get(b"traceparent", b"").decode("latin-1")
    if not _TRACEPARENT.fullmatch(traceparent):
        traceparent = f"00-{_unique(128):032x}-{_unique(64):016x}-01"
    return Causation(correlation_id, None, traceparent)


_unique = random.Random(secrets.randbits(128)).getrandbits  # noqa: S311
"""Trace ids need to be unique, not secret; the system's secure source costs a system call each."""


class Telemetry:
    """ASGI middleware: gives each request its cause, each answer its correlation id, and counts both.

    The request's headers by their names in lower case, read once, stand in its scope beside the cause.

    It also turns HEAD into GET (and counts it so), and answers what failed or was given up, and nobody else has
    answered.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; only HTTP is looked at."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", HEAD: True}
        headers = dict(reversed(scope["headers"]))  # of several with one name the first counts
        cause = cause_of(headers)
        scope["chorus.headers"], scope["chorus.cause"] = headers, cause
        told = (_CORRELATION_NAME, cause.correlation_id.encode())
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], told]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            # Here, and not in a handler: those of Exception run outside, without correlation id and count.
            if status:
                raise  # half an answer cannot be taken back
            await failed(scope["path"], error)(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The service ends, and uvicorn waits no longer. Its own answer would be a 500 without correlation id.
            if status:
                raise
            await given_up(scope["path"])(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            requests, seconds = _series(scope["method"], route, status or GONE)
            requests.inc()
            seconds.observe(time.perf_counter() - started)


@lru_cache(maxsize=1024)
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, status), SECONDS.labels(method, route)
