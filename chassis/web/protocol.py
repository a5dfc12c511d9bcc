"""uvicorn's HTTP protocol with limits: what one client can take of memory, time and connections is bounded.

It also ignores upgrades, sends no chunks to HTTP/1.0 clients, and requires one Host. Written against uvicorn 0.54,
whose httptools protocol does none of this. `chorus serve` uses it.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, ClassVar, Final

from httptools import HttpParserUpgrade, HttpRequestParser
from uuid_utils import uuid7
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from chassis.web.problems import ContentTooLarge, Problem, render

MESSAGE_BYTES: Final = 1024 * 1024
"""Bytes of a request with everything that its body's encoding adds. Routes refuse much smaller bodies."""

CHECK_SECONDS: Final = 2.0
"""Interval between two checks of a connection's times."""

UNREAD_SECONDS: Final = 60.0
"""How long a client may leave a full buffer of its response unread."""


class BadRequest(Problem, status=400, reason="bad_request"):
    """This is not a valid HTTP request."""


class RequestTimeout(Problem, status=408, reason="request_timeout"):
    """The request was not complete in time."""


class UriTooLong(Problem, status=414, reason="uri_too_long"):
    """The URL is too long."""


class TooManyConnections(
    Problem, status=429, reason="too_many_connections", headers={"Retry-After": "1"}
):
    """There are too many connections from this address."""


class HeadersTooLarge(Problem, status=431, reason="headers_too_large"):
    """The headers are too large or too many."""


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    url_bytes: int = 8 * 1024
    header_bytes: int = 32 * 1024
    headers: int = 100
    head_seconds: float = 10.0
    """From the first byte, or the connection, to the end of the headers."""
    body_seconds: float = 30.0
    """From the first byte to the end of the body. While the service itself does not read, it does not count."""
    connections: int = 1000
    """Open connections from one address."""
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses without that limit: their connections are those of many clients."""

    def connections_exceed(self, address: str, connections: int) -> bool:
        """Whether an address has too many connections."""
        if connections <= self.connections:
            return False
        return not any(ip_address(address) in network for network in self.proxies)


class Parser(HttpRequestParser):
    """A parser that ignores upgrades (RFC 9110, 7.8), which make httptools' stop after the headers, without the body.

    Clients offer HTTP/2 like this; the JDK's does by default.
    """

    def __init__(self, protocol: "LimitedProtocol") -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._protocol = protocol

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        """Parse; a head with an upgrade is parsed a second time, without it, by the protocol's next parser."""
        parser, rest = self, memoryview(data)
        while rest:
            try:
                HttpRequestParser.feed_data(parser, rest)
                return
            except HttpParserUpgrade as upgrade:
                if not parser.upgrades():
                    raise
                rest = rest[upgrade.args[0] :]
                head = self._protocol.head_without_upgrade()
                parser = self._protocol.parser = Parser(self._protocol)
                HttpRequestParser.feed_data(parser, head)

    def upgrades(self) -> bool:
        """Whether the request offers an upgrade. CONNECT is another reason to stop."""
        return self.should_upgrade() and self.get_method() != b"CONNECT"


class UntilClose(RequestResponseCycle):
    """A response to an HTTP/1.0 client: without a length its body ends with the connection (RFC 9112, 6.3)."""

    async def send(self, message: Any) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.has_length = any(n.lower() == b"content-length" for n, _ in message["headers"])
            self.chunked_encoding = None if self.has_length else False
        elif not self.has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class LimitedProtocol(HttpToolsProtocol):
    """One connection. What exceeds a limit gets a problem document, if no response has begun, and is closed."""

    limits: ClassVar = Limits()
    _open: ClassVar[Counter[str]] = Counter()
    """Connections by address."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser: Parser = Parser(self)
        self._began: float | None = self.loop.time()
        """When the request that is being received began; None between requests."""
        self._in_head = True
        self._received = 0
        """Bytes of this request, without those of the read in which it began."""
        self._silent = True
        self._unread = 0.0
        self._refusal: Problem | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a connection too many from its address is refused."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._open[self._address] += 1
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_times)
        if self.client and self.limits.connections_exceed(self._address, self._open[self._address]):
            self._refuse(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._check.cancel()
        self._open[self._address] -= 1
        if not self._open[self._address]:
            del self._open[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what was received, up to the limits."""
        if self.transport.is_closing():
            return
        if self._began is None:
            self._began = self.loop.time()
        self._silent = False
        self._received += len(data)
        super().data_received(data)
        if self._receiving():
            if self._in_head and self._received > self.limits.url_bytes + self.limits.header_bytes:
                self._refuse(HeadersTooLarge())
            elif self._received > MESSAGE_BYTES:
                self._refuse(ContentTooLarge())

    def _receiving(self) -> bool:
        return self._began is not None and not self.transport.is_closing()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._began, self._in_head, self._received = self.loop.time(), True, 0

    def on_url(self, url: bytes) -> None:
        """A part of the URL."""
        super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._stop_parsing(UriTooLong())

    def on_headers_complete(self) -> None:
        """The request's head is complete: the application is called."""
        size = sum([len(name) + len(value) for name, value in self.headers])
        if len(self.headers) > self.limits.headers or size > self.limits.header_bytes:
            self._stop_parsing(HeadersTooLarge())
        if self.parser.upgrades():
            return
        old = self.parser.get_http_version() == "1.0"
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or not (hosts or old):
            self._stop_parsing(BadRequest("An HTTP/1.1 request has one Host header."))
        self._in_head = False
        super().on_headers_complete()
        if old:
            self.cycle.__class__ = UntilClose  # uvicorn has made it, and has not run it yet

    def head_without_upgrade(self) -> bytes:
        """The head that was parsed, without its upgrade."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join([t for t in tokens if t.lower() != b"upgrade"])  # noqa: PLW2901
            if name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def on_message_complete(self) -> None:
        """The request's body is complete."""
        if self.parser.upgrades():
            return
        super().on_message_complete()
        self._began, self._in_head = None, True

    def _stop_parsing(self, refusal: Problem) -> None:
        # The parser turns an exception of a callback into one of its own; `send_400_response` is called then.
        self._refusal = refusal
        raise ValueError(refusal.title)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what the parser refused."""
        self._refuse(self._refusal or BadRequest())

    def _refuse(self, problem: Problem) -> None:
        """Close; before it send a problem document, unless that would break into another response."""
        cycle: RequestResponseCycle | None = self.cycle
        previous_is_complete = cycle is None or cycle.response_complete
        if previous_is_complete if cycle is None or self._in_head else not cycle.response_started:
            response = render(problem, "/")
            headers = [*response.raw_headers, (b"x-correlation-id", str(uuid7()).encode())]
            lines = [b"%s: %s\r\n" % header for header in headers]
            head = [STATUS_LINE[problem.status], *lines, b"connection: close\r\n\r\n"]
            self.transport.write(b"".join([*head, bytes(response.body)]))
        if cycle is not None and not self._in_head:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()

    def _check_times(self) -> None:
        """Refuse a request that takes too long to arrive, drop a client that does not read its response."""
        self._check = self.loop.call_later(CHECK_SECONDS, self._check_times)
        now = self.loop.time()
        self._unread = self._unread + CHECK_SECONDS if self.flow.write_paused else 0.0
        if self._unread > UNREAD_SECONDS:
            self.transport.abort()
        elif self._began is not None and self.flow.read_paused:
            self._began = now  # the service does not read: the client is not at fault
        elif self._began is not None and self._receiving():
            limit = self.limits.head_seconds if self._in_head else self.limits.body_seconds
            if now - self._began > limit:
                self._time_out()

    def _time_out(self) -> None:
        if self._silent:
            self.transport.close()  # nothing was asked
        else:
            self._refuse(RequestTimeout())
