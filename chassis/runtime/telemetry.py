"""Logs, metrics of HTTP requests, and the correlation id of each request and response."""

import asyncio
import logging
import sys
import time
from functools import lru_cache
from typing import Any, Final

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.runtime.settings import Settings
from chassis.web.context import CORRELATION_HEADER, with_context
from chassis.web.problems import interrupted, unhandled

CLIENT_CLOSED: Final = 499
"""The status that is counted if the client disconnects before a response, as nginx does."""

_CORRELATION_NAME: Final = CORRELATION_HEADER.lower().encode()

REQUESTS = Counter("chorus_http_requests_total", "Requests.", ["method", "route", "status"])
SECONDS = Histogram(
    "chorus_http_seconds",
    "Time to the end of the response.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30),
)


def configure_logging(settings: Settings, service: str) -> None:
    """Log events with keys to standard error, for the console or as JSON lines."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The default formatter prints local variables, which may hold secrets.
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
    # Libraries log through `logging`: same format, with the logger's name as a key.
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[libraries], force=True)


class Telemetry:
    """ASGI middleware: gives each request its context and each response its correlation id, and counts both.

    It also responds to requests that have failed or been interrupted without a response.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection. Only HTTP is counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope, causation = with_context(scope)
        correlation = (_CORRELATION_NAME, causation.correlation_id.encode())
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], correlation]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            # Not in an exception handler: Starlette runs that of Exception outside all middleware.
            if status:
                raise  # the response has begun
            await unhandled(scope["path"], error)(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The service stops. Uvicorn's own response would be a 500 without correlation id.
            if status:
                raise
            await interrupted(scope["path"])(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            requests, seconds = _series(scope["method"], route, status or CLIENT_CLOSED)
            requests.inc()
            seconds.observe(time.perf_counter() - started)


@lru_cache(maxsize=1024)
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, status), SECONDS.labels(method, route)
