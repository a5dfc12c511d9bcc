"""The limits of the HTTP protocol: a client cannot take memory, time or connections without bound."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final

import pytest
import uvicorn

from chassis.web import protocol
from chassis.web.protocol import LimitedProtocol, Limits
from tests.support.eventually import eventually

LIMITS: Final = Limits(head_seconds=0.5, body_seconds=0.5, connections=20)
ENOUGH: Final = 8 * 1024 * 1024
"""Bytes after which an endless request should long have been refused."""

POST: Final = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Limited(LimitedProtocol):
    limits = LIMITS


async def app(_scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body, or until the client is gone; answers with a megabyte if the path says so."""
    message = await receive()
    while message["type"] == "http.request" and message["more_body"]:
        message = await receive()
    if message["type"] == "http.disconnect":
        return
    body = b"x" * 10_000_000 if _scope["path"] == "/large" else b"ok"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(protocol, "CHECK_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.2)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Limited, lifespan="off", log_level="critical"))
    serving = asyncio.create_task(server.serve([listening]))
    yield listening.getsockname()[1]
    server.should_exit = True
    await serving
    assert not LimitedProtocol._open, "every connection that was counted has ended"


async def status_of(port: int, parts: Iterable[bytes]) -> int | None:
    """Send until the server answers or closes; returns the status of its answer, None without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answering = asyncio.create_task(reader.read())
    try:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                if answering.done():
                    break
                writer.write(part)
                await writer.drain()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                answer = await answering
                return status(answer) if answer else None
        return None
    finally:
        writer.close()


def status(answer: bytes) -> int:
    """The status of a problem document."""
    head, _, body = answer.partition(b"\r\n\r\n")
    found = int(head.split()[1])
    assert b"application/problem+json" in head
    assert b"x-correlation-id: " in head
    assert json.loads(body)["status"] == found
    return found


async def no_connection_is_open() -> bool:
    return not LimitedProtocol._open


def endless(*parts: bytes) -> Iterator[bytes]:
    """A request that repeats its last part until ENOUGH bytes have been sent. Fails if all of them are taken."""
    *first, again = parts
    yield from first
    block = again * (16_384 // len(again) + 1)
    for sent in itertools.count(len(block), len(block)):
        assert sent < ENOUGH, "the server takes a request without end"
        yield block


class TestLimitedProtocol:
    @pytest.mark.parametrize(
        ("parts", "expected"),
        [
            ((b"GET /", b"x"), {414}),
            ((b"GET /?", b"a=1&"), {414}),
            ((b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"x"), {431}),
            ((b"GET / HTTP/1.1\r\nHost: x\r\n", b"x"), {431}),
            ((b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n"), {431}),
            ((b"GET / HTTP/1.1\r\n", b"A" * 500 + b": b\r\n"), {431}),
            ((POST + b"Content-Length: 100000000\r\n\r\n", b"x"), {413}),
            ((CHUNKED, b"1;extension=value\r\nx\r\n"), {413}),
            ((CHUNKED + b"1;", b"e"), {413, 400}),
            ((CHUNKED + b"0\r\n", b"Trailer: x\r\n"), {413, 400}),
        ],
        ids=[
            "path",
            "query",
            "header value",
            "header name",
            "headers",
            "large headers",
            "body",
            "chunks",
            "chunk extension",
            "trailers",
        ],
    )
    async def test_an_endless_request_is_refused(
        self, port: int, parts: tuple[bytes, ...], expected: set[int]
    ) -> None:
        # The answer may be lost with the connection: the client sends while the server closes.
        assert await status_of(port, endless(*parts)) in {None, *expected}

    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            (b"GET /" + b"x" * 8_192 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
            (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 32_768 + b"\r\n\r\n", 431),
            (b"nonsense\r\n\r\n", 400),
        ],
        ids=["url", "count", "size", "nonsense"],
    )
    async def test_what_exceeds_a_limit_gets_its_status(
        self, port: int, request_: bytes, expected: int
    ) -> None:
        assert await status_of(port, [request_]) == expected

    @pytest.mark.parametrize(
        ("begun", "expected"),
        [
            (b"", None),
            (b"GET / HT", 408),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", 408),
            (POST + b"Content-Length: 5\r\n\r\nab", 408),
            (CHUNKED + b"5\r\nab", 408),
        ],
    )
    async def test_a_half_sent_request_is_ended(
        self, port: int, begun: bytes, expected: int | None
    ) -> None:
        assert await status_of(port, [begun]) == expected

    async def test_bytes_that_trickle_do_not_extend_the_time(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            while not reader.at_eof():
                with contextlib.suppress(ConnectionError):
                    writer.write(b"G" if not reader.at_eof() else b"")
                    await writer.drain()
                with contextlib.suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(0.05):
                        await reader.read()
        writer.close()

    async def test_a_client_that_does_not_read_is_dropped(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        await eventually(no_connection_is_open)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(30_000_000)
        writer.close()

    async def test_connections_of_one_address_are_limited(self, port: int) -> None:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert await status_of(port, []) == 429
        for _, writer in opened:
            writer.close()
        await eventually(no_connection_is_open)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()

    async def test_requests_within_the_limits_are_answered(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"Host: x\r\n" + b"A: b\r\n" * 90 + b"B: " + b"b" * 30_000 + b"\r\n\r\n"
        for _ in range(2):
            writer.write((b"GET /" + b"x" * 8_000 + b" HTTP/1.1\r\n" + head) * 3)
            for _ in range(3):
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()

    async def test_a_refused_request_does_not_answer_the_one_before(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /" + b"x" * 9_000)
        answer = await reader.read()
        assert b" 414 " not in answer.partition(b"\r\n")[0]
        writer.close()
