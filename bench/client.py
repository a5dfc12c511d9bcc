"""A minimal HTTP/1.1 client for the load generator: requests are prepared bytes, responses a status and a body.

A request costs about 30 microseconds of processor time, so that the load takes little from what it measures.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import urlsplit

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class UnsupportedResponseError(Exception):
    """A response that this client cannot read: it only supports bodies with a Content-Length."""


def post(path: str, body: Any, token: str = "") -> bytes:
    """The bytes of a POST of a JSON document."""
    document = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(document)}",
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    return "\r\n".join(lines).encode() + _HEAD_END + document


class ResponseReader:
    """Parses responses from chunks of any size."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """The status and body of each response that is complete now. Raises UnsupportedResponseError."""
        self._buffer += chunk
        found = []
        while (response := self._next()) is not None:
            found.append(response)
        return found

    def _next(self) -> tuple[int, bytes] | None:
        head_end = self._buffer.find(_HEAD_END)
        if head_end < 0:
            return None
        status, length = _read_head(self._buffer[:head_end])
        begin = head_end + len(_HEAD_END)
        if len(self._buffer) < begin + length:
            return None
        body = self._buffer[begin : begin + length]
        self._buffer = self._buffer[begin + length :]
        return status, body


def _read_head(head: bytes) -> tuple[int, int]:
    status = int(head[9:12])
    lower = head.lower()
    place = lower.find(_LENGTH)
    if place < 0:
        if status in {204, 304}:
            return status, 0
        raise UnsupportedResponseError(head.decode(errors="replace"))
    end = lower.find(b"\r\n", place)
    return status, int(lower[place + len(_LENGTH) : end if end > 0 else None])


OnResponse = Callable[["Connection", int, bytes], None]
OnLost = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """One persistent connection, with at most one request in flight."""

    def __init__(self, place: int, on_response: OnResponse, on_lost: OnLost) -> None:
        self.place = place
        """Its number among the connections of a load."""
        self.due = 0.0
        """When the request in flight was due, in seconds since 1970."""
        self.waiting = False
        self._on_response = on_response
        self._on_lost = on_lost
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # uvloop's transport does not inherit from asyncio.Transport.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        for status, body in self._reader.feed(data):
            self.waiting = False
            self._on_response(self, status, body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        """Called by the event loop."""
        if self._transport is not None:
            self._transport = None
            self._on_lost(self)

    def send(self, request: bytes) -> None:
        """Send the next request. The previous one must have its response."""
        assert self._transport is not None
        self.waiting = True
        self._transport.write(request)

    def close(self) -> None:
        """Close it, without a call of `on_lost`."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None


async def connect(url: str, place: int, on_response: OnResponse, on_lost: OnLost) -> Connection:
    """Connect to a service. Raises OSError."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(place, on_response, on_lost),
        str(address.hostname),
        int(address.port or 80),
    )
    return connection
