"""HTTP/1.1 as a load generator needs it: requests are bytes made beforehand, answers a status and a body.

A request costs about 30 microseconds of this process, so that the load takes little from what it measures.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import urlsplit

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class NotUnderstoodError(Exception):
    """An answer that this client cannot read: only bodies whose length is told are known here."""


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


class AnswerReader:
    """Puts answers together from the pieces in which they come."""

    def __init__(self) -> None:
        self._pieces = b""

    def feed(self, piece: bytes) -> list[tuple[int, bytes]]:
        """The answers that are complete now: status and body. Raises NotUnderstoodError."""
        self._pieces += piece
        found = []
        while (answer := self._next()) is not None:
            found.append(answer)
        return found

    def _next(self) -> tuple[int, bytes] | None:
        head_end = self._pieces.find(_HEAD_END)
        if head_end < 0:
            return None
        status, length = _read_head(self._pieces[:head_end])
        begin = head_end + len(_HEAD_END)
        if len(self._pieces) < begin + length:
            return None
        body = self._pieces[begin : begin + length]
        self._pieces = self._pieces[begin + length :]
        return status, body


def _read_head(head: bytes) -> tuple[int, int]:
    status = int(head[9:12])
    lower = head.lower()
    place = lower.find(_LENGTH)
    if place < 0:
        if status in {204, 304}:
            return status, 0
        raise NotUnderstoodError(head.decode(errors="replace"))
    end = lower.find(b"\r\n", place)
    return status, int(lower[place + len(_LENGTH) : end if end > 0 else None])


Answered = Callable[["Connection", int, bytes], None]
Lost = Callable[["Connection"], None]


class Connection(asyncio.Protocol):
    """One connection that is kept, with at most one request on its way."""

    def __init__(self, place: int, answered: Answered, lost: Lost) -> None:
        self.place = place
        """Its number among the connections of a load."""
        self.begun = 0.0
        """When the request that is on its way began, by whatever clock the load uses."""
        self.waiting = False
        self._answered = answered
        self._lost = lost
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # uvloop's own is none by inheritance.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        for status, body in self._reader.feed(data):
            self.waiting = False
            self._answered(self, status, body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - what has ended it does not matter
        """Called by the event loop."""
        if self._transport is not None:
            self._transport = None
            self._lost(self)

    def send(self, request: bytes) -> None:
        """Send the next request; the one before must have been answered."""
        assert self._transport is not None
        self.waiting = True
        self._transport.write(request)

    def close(self) -> None:
        """Close it; nobody is told."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None


async def connect(url: str, place: int, answered: Answered, lost: Lost) -> Connection:
    """A connection to a service. Raises OSError if it is not there."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(place, answered, lost), str(address.hostname), int(address.port or 80)
    )
    return connection
