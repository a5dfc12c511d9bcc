"""The services that a service calls: one aiohttp session with connections that are kept, and short time limits.

aiohttp is the fastest client for asyncio; it sets TCP_NODELAY by itself. Host names are resolved once, and there are
neither cookies nor compression. A call that meets a connection which the callee has just closed is made again on
another one: everything that is called here may be called twice.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from yarl import URL

from bench.baselines.common import Service
from chassis.web.context import CORRELATION_HEADER
from events.base import Causation

POOL: Final = 256
"""Connections from one process, to all that it calls."""

KEPT_SECONDS: Final = 60.0
"""How long an idle connection is kept: less than the callee keeps it."""

PATIENCE_SECONDS: Final = 5.0
"""How long a call may take."""

_JSON: Final = {"Content-Type": "application/json"}


class CalleeAwayError(Exception):
    """A service does not answer, answers too late, or answers that it cannot. What was asked may have been done."""


class UnknownError(Exception):
    """The service that owns it does not know it."""


class Callees:
    """Calls the other services by name, at the addresses BENCH_URL_<SERVICE>."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    @contextlib.asynccontextmanager
    async def open(self, _: Service) -> AsyncIterator[None]:
        """A part of every service that calls another."""
        connector = aiohttp.TCPConnector(
            limit=POOL, keepalive_timeout=KEPT_SECONDS, ttl_dns_cache=None
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            auto_decompress=False,
        )
        try:
            yield
        finally:
            await self._session.close()

    async def get(self, service: str, path: str, cause: Causation) -> bytes:
        """What a GET answers. Raises CalleeAwayError or UnknownError."""
        return await self._ask("GET", service, path, None, cause)

    async def post(self, service: str, path: str, body: str, cause: Causation) -> bytes:
        """What a POST of a JSON document answers. Raises CalleeAwayError or UnknownError."""
        return await self._ask("POST", service, path, body.encode(), cause)

    async def _ask(
        self, method: str, service: str, path: str, body: bytes | None, cause: Causation
    ) -> bytes:
        if service not in self._urls:
            self._urls[service] = _url(service)
        url = self._urls[service].with_path(path)
        headers = {CORRELATION_HEADER: cause.correlation_id}
        if cause.traceparent:
            headers["traceparent"] = cause.traceparent
        if body is not None:
            headers |= _JSON
        try:
            try:
                return await self._once(method, url, body, headers)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                return await self._once(method, url, body, headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CalleeAwayError(f"{service}: {error!r}") from error

    async def _once(
        self, method: str, url: URL, body: bytes | None, headers: dict[str, str]
    ) -> bytes:
        assert self._session is not None
        async with self._session.request(method, url, data=body, headers=headers) as answer:
            if answer.status == 404:
                raise UnknownError(str(url))
            answer.raise_for_status()
            return await answer.read()


callees: Final = Callees()
"""One per process."""


def _url(service: str) -> URL:
    name = f"BENCH_URL_{service.upper()}"
    url = os.environ.get(name)
    if not url:
        raise LookupError(f"{name} is not set")
    return URL(url)
