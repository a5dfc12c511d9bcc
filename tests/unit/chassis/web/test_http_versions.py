"""What HTTP/1.1 asks of a server towards clients that offer an upgrade, speak HTTP/1.0, or name no host."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import uvicorn

from chassis.web.protocol import LimitedProtocol

H2C: Final = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
)
"""What the JDK's client sends with its first request over a connection."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path, the body and the headers of the request, in two parts; at `/length` in one."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    seen = {"path": scope["path"], "body": body.decode(), "headers": str(scope["headers"])}
    parts = [json.dumps(seen).encode(), b"\n"]
    length = (b"content-length", b"%d" % sum(map(len, parts)))
    headers = [length] if scope["path"] == "/length" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=LimitedProtocol, ws="none", lifespan="off", log_level="critical"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    yield listening.getsockname()[1]
    server.should_exit = True
    await serving


async def answer_to(port: int, *parts: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


def bodies(answer: bytes) -> list[Any]:
    return [json.loads(line) for line in answer.splitlines() if line.startswith(b"{")]


class TestUpgrade:
    """RFC 9110, 7.8: a server may ignore an upgrade, and answers as if it had not been offered."""

    @pytest.mark.parametrize(
        "length",
        [
            b"Content-Length: 5\r\n\r\nhello",
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ],
    )
    @pytest.mark.parametrize("size", [1, 7, 10_000])
    async def test_a_request_that_offers_one_keeps_its_body(
        self, port: int, length: bytes, size: int
    ) -> None:
        request = b"POST /a?b HTTP/1.1\r\nHost: x\r\n" + H2C + length
        request += b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        parts = [request[start : start + size] for start in range(0, len(request), size)]
        first, second = bodies(await answer_to(port, *parts))
        assert (first["path"], first["body"]) == ("/a", "hello")
        assert "h2c" not in first["headers"]
        assert (second["path"], second["body"]) == ("/next", "")

    async def test_many_in_one_read_are_answered(self, port: int) -> None:
        request = b"GET / HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\n"
        last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answers = bodies(await answer_to(port, request * 20 + last))
        assert len(answers) == 21

    async def test_closing_is_still_understood(self, port: int) -> None:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade, close\r\n\r\n"
        assert len(bodies(await answer_to(port, request))) == 1

    async def test_connect_is_refused_or_closed(self, port: int) -> None:
        answer = await answer_to(
            port, b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\nConnection: close\r\n\r\n"
        )
        assert b" 400 " in answer.partition(b"\r\n")[0]


class TestVersion:
    """RFC 9112, 6.1 and 6.3: HTTP/1.0 has no chunks; a body without a length ends with the connection."""

    async def test_an_http_1_0_client_gets_no_chunks(self, port: int) -> None:
        for keep_alive in (b"", b"Connection: keep-alive\r\n"):
            head, _, body = (
                await answer_to(port, b"GET / HTTP/1.0\r\n" + keep_alive + b"\r\n")
            ).partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in head.lower()
            assert json.loads(body)["path"] == "/"

    async def test_a_length_is_kept(self, port: int) -> None:
        head, _, body = (await answer_to(port, b"GET /length HTTP/1.0\r\n\r\n")).partition(
            b"\r\n\r\n"
        )
        assert b"content-length: %d" % len(body) in head

    async def test_an_http_1_1_client_gets_chunks(self, port: int) -> None:
        answer = await answer_to(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"transfer-encoding: chunked" in answer


class TestHost:
    """RFC 9112, 3.2: an HTTP/1.1 request has one Host header."""

    @pytest.mark.parametrize(
        ("head", "expected"),
        [
            (b"GET / HTTP/1.1\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n", 400),
            (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost:\r\n", 200),
            (b"GET / HTTP/1.0\r\n", 200),
        ],
        ids=["none", "two", "two in 1.0", "empty", "none in 1.0"],
    )
    async def test_a_request_has_one_host(self, port: int, head: bytes, expected: int) -> None:
        answer = await answer_to(port, head + b"Connection: close\r\n\r\n")
        assert int(answer.split()[1]) == expected
