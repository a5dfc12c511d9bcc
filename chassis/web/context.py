"""The middleware that gives each request its context, each response its correlation id, and counts both."""

import asyncio
import random
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, Self

from fastapi import Request
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from chassis.web.problems import problem_of, render
from events.base import Causation

CLIENT_CLOSED: Final = 499
"""The status that is counted if the client disconnects before a response, as nginx does."""

REQUESTS = Counter("chorus_http_requests_total", "Requests.", ["method", "route", "status"])
SECONDS = Histogram(
    "chorus_http_seconds",
    "Time to the end of the response.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30),
)

_CONTEXT: Final = "chorus.context"
_CORRELATION = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_unique = random.Random(secrets.randbits(128)).getrandbits  # noqa: S311
"""Trace ids need to be unique, not secret; the system's secure source costs a system call each."""


class Context(NamedTuple):
    """What is read of each request once."""

    headers: Mapping[bytes, bytes]
    """The headers, by their names in lower case; of several with one name the first."""
    causation: Causation
    """The causation of the events that the request leads to."""
    head: bool
    """Whether the client has sent HEAD, which is handled as GET; the server leaves out the body."""

    @classmethod
    def of(cls, scope: Scope) -> Self:
        """The context, with the client's correlation id and trace context where they are well formed, else new ones."""
        headers = dict(reversed(scope["headers"]))
        flow = _CORRELATION.fullmatch(headers.get(b"x-correlation-id", b""))
        trace = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
        causation = Causation(
            flow[0].decode() if flow else str(uuid7()),
            None,
            trace[0].decode() if trace else f"00-{_unique(128):032x}-{_unique(64):016x}-01",
        )
        return cls(headers, causation, scope["method"] == "HEAD")


def context_of(request: Request) -> Context:
    """The context of a request."""
    context: Context = request.scope[_CONTEXT]
    return context


class Telemetry:
    """The middleware. It also turns every error that a route raises into a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection. Only HTTP is counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = Context.of(scope)
        correlation = (b"x-correlation-id", context.causation.correlation_id.encode())
        # A copy: the server's own scope keeps the method HEAD.
        scope = {**scope, "method": "GET" if context.head else scope["method"], _CONTEXT: context}
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], correlation]
                if b"authorization" in context.headers:
                    message["headers"] += _private(message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except (Exception, asyncio.CancelledError) as error:
            if status:
                raise  # the response has begun
            response = render(problem_of(error, scope["path"]), scope["path"])
            await response(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            requests, seconds = _series(scope["method"], route, status or CLIENT_CLOSED)
            requests.inc()
            seconds.observe(time.perf_counter() - started)


def _private(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What keeps caches, also the client's own, from storing the response to a request with a token."""
    known = any(name == b"cache-control" for name, _ in headers)
    return [] if known else [(b"cache-control", b"no-store")]


@lru_cache(maxsize=1024)
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, status), SECONDS.labels(method, route)
