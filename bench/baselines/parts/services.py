"""The HTTP client between services: one aiohttp session with persistent connections and short timeouts.

aiohttp is the fastest client for asyncio; it sets TCP_NODELAY by itself. Host names are resolved once, and there are
neither cookies nor compression. A request on a connection that the server has just closed is retried on another one:
all internal routes are idempotent.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final

import aiohttp
from yarl import URL

from bench.baselines.common import Service
from events.base import Causation

POOL: Final = 256
"""The connections of one process to all other services."""

KEPT_SECONDS: Final = 60.0
"""How long an idle connection is kept: shorter than the server keeps it."""

TIMEOUT_SECONDS: Final = 5.0
"""The timeout of a request."""

_JSON: Final = {"Content-Type": "application/json"}


class ServiceUnavailableError(Exception):
    """A service does not respond in time, or responds with an error. The request may have had its effect."""


class NotFoundError(Exception):
    """The service responded with 404."""


class Services:
    """Sends requests to the other services by name, at the addresses in BENCH_URL_<SERVICE>."""

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
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            auto_decompress=False,
        )
        try:
            yield
        finally:
            await self._session.close()

    async def get(self, service: str, path: str, cause: Causation) -> bytes:
        """The body of the response to a GET. Raises ServiceUnavailableError or NotFoundError."""
        return await self._request("GET", service, path, None, cause)

    async def post(self, service: str, path: str, body: str, cause: Causation) -> bytes:
        """The body of the response to a POST of JSON. Raises ServiceUnavailableError or NotFoundError."""
        return await self._request("POST", service, path, body.encode(), cause)

    async def _request(
        self, method: str, service: str, path: str, body: bytes | None, cause: Causation
    ) -> bytes:
        if service not in self._urls:
            self._urls[service] = _url(service)
        url = self._urls[service].with_path(path)
        headers = {"X-Correlation-Id": cause.correlation_id}
        if cause.traceparent:
            headers["traceparent"] = cause.traceparent
        if body is not None:
            headers |= _JSON
        try:
            try:
                return await self._try(method, url, body, headers)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                return await self._try(method, url, body, headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServiceUnavailableError(f"{service}: {error!r}") from error

    async def _try(
        self, method: str, url: URL, body: bytes | None, headers: dict[str, str]
    ) -> bytes:
        assert self._session is not None
        async with self._session.request(method, url, data=body, headers=headers) as answer:
            if answer.status == 404:
                raise NotFoundError(str(url))
            answer.raise_for_status()
            return await answer.read()


services: Final = Services()
"""One per process."""


def _url(service: str) -> URL:
    name = f"BENCH_URL_{service.upper()}"
    url = os.environ.get(name)
    if not url:
        raise LookupError(f"{name} is not set")
    return URL(url)
