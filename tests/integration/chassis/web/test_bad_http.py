"""Bad HTTP, byte by byte, sent to a service process: it answers, keeps running, and logs no fault."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.fixtures import Install
from tests.support.processes import Processes, ServiceProcess


@dataclass(frozen=True)
class Answer:
    """The response as it was received."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
async def running(install_chorus: Install, module_processes: Processes) -> ServiceProcess:
    [process] = await module_processes.start(await install_chorus("bad_http"), "orders")
    return process


@pytest.fixture
async def orders(running: ServiceProcess) -> AsyncIterator[ServiceProcess]:
    yield running
    answer = await sent(running, b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.status == 200
    assert "Traceback" not in running.log
    assert "http.fault" not in running.log


async def sent(orders: ServiceProcess, *parts: bytes, within: float = 30) -> Answer:
    """Send bytes as they are, and read one response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", orders.port)
    try:
        async with asyncio.timeout(within):
            for part in parts:
                writer.write(part)
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            length = int(headers.get("content-length", 0))
            no_body = parts[0].startswith(b"HEAD ")
            body = b"" if no_body else await reader.readexactly(length)
            return Answer(int(head[0].split()[1]), headers, body)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def is_problem(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-correlation-id"]
    assert json.loads(answer.body)["status"] == status


POST = b"POST /order/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def test_a_body_is_refused_by_its_declared_length_before_it_is_sent(
    orders: ServiceProcess,
) -> None:
    for length in (b"65537", b"10000000000", b"9" * 18):
        is_problem(await sent(orders, POST + b"Content-Length: " + length + b"\r\n\r\n"), 413)


async def test_a_chunked_body_is_refused_once_it_is_too_long(
    orders: ServiceProcess,
) -> None:
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    parts = [POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 8]
    is_problem(await sent(orders, *parts), 413)


async def test_expect_continue_with_too_large_a_body_is_refused_at_once(
    orders: ServiceProcess,
) -> None:
    asked = POST + b"Content-Length: 70000\r\nExpect: 100-continue\r\n\r\n"
    is_problem(await sent(orders, asked), 413)


async def test_a_connection_continues_after_too_large_a_body(orders: ServiceProcess) -> None:
    body = b"x" * 70_000
    reader, writer = await asyncio.open_connection("127.0.0.1", orders.port)
    writer.write(POST + b"Content-Length: 70000\r\n\r\n" + body)
    writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(30):
        first = await reader.readuntil(b"}")
        second = await reader.readuntil(b'{"status":"live"}')
    assert b" 413 " in first
    assert b" 200 " in second
    writer.close()


async def test_a_client_that_disconnects_causes_no_error(
    orders: ServiceProcess,
) -> None:
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", orders.port)
        writer.write(POST + b'Content-Length: 20\r\n\r\n{"total')
        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await reader.read()


@pytest.mark.parametrize(
    "host",
    [
        b"[",
        b"[::1",
        b"a b",
        b"\xff",
        b"x" * 5_000,
        b"",
        b"http://x",
        b"x:99999999",
        b"%00",
        b"x/../y",
    ],
)
async def test_a_malformed_host_causes_no_error(orders: ServiceProcess, host: bytes) -> None:
    for path in (b"/nope", b"/order/x"):
        request = b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
        answer = await sent(orders, request)
        assert answer.status in {400, 401, 404}, answer


@pytest.mark.parametrize(
    "target",
    [
        b"/order/%",
        b"/order/%zz",
        b"/order/%c0%af",
        b"/order/\xc3\xbc",
        b"/order/..%2f..%2fetc",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/docs/../factory.py",
        b"/docs/%2e%2e%2ffactory.py",
        b"//evil.example/",
        b"/order?cursor=%",
        b"/order?\xff=\xff",
        b"/" + b"x" * 30_000,
        b"http://evil.example/live",
        b"*",
        b"live",
    ],
)
async def test_a_malformed_target_causes_no_error(orders: ServiceProcess, target: bytes) -> None:
    answer = await sent(
        orders, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert answer.status in {200, 400, 401, 404, 414, 422}, answer
    assert answer.status != 200 or answer.body == b'{"status":"live"}'


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"get /live HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /live HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET /live HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: x\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_a_request_that_is_not_http_is_refused_or_disconnected(
    orders: ServiceProcess, request_: bytes
) -> None:
    # What the parser refuses never reaches the application.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        answer = await sent(orders, request_, within=2)
        assert answer.status in {200, 400, 401, 404, 405, 415, 422, 431}, answer
        if answer.status != 200:
            is_problem(answer, answer.status)


async def test_what_exceeds_a_limit_is_refused(orders: ServiceProcess) -> None:
    for status, request in (
        (414, b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (431, b"GET /live HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"),
        (431, b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 100 + b"\r\n"),
    ):
        is_problem(await sent(orders, request), status)


async def test_head_is_answered_with_the_headers_alone(orders: ServiceProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", orders.port)
    writer.write(b"HEAD /live HTTP/1.1\r\nHost: x\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(30):
        head = await reader.readuntil(b"\r\n\r\n")
        follows = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length: 17" in head.lower()
    assert follows.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_options_names_the_methods(orders: ServiceProcess) -> None:
    answer = await sent(orders, b"OPTIONS /order HTTP/1.1\r\nHost: x\r\n\r\n")
    is_problem(answer, 405)
    assert answer.headers["allow"] == "get, head"


async def test_a_request_without_a_host_is_refused(orders: ServiceProcess) -> None:
    is_problem(await sent(orders, b"GET /live HTTP/1.1\r\n\r\n"), 400)


async def test_an_offer_of_http_2_leaves_the_body(orders: ServiceProcess) -> None:
    """As the JDK's client sends it: a body that was lost would be no reason for 413."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
    body = b"x" * 70_000
    parts = [
        POST + upgrade + b"Transfer-Encoding: chunked\r\n\r\n11170\r\n",
        body,
        b"\r\n0\r\n\r\n",
    ]
    is_problem(await sent(orders, *parts), 413)


async def test_an_upgrade_is_not_made(orders: ServiceProcess) -> None:
    upgrade = (
        b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await sent(orders, upgrade)).status in {200, 400, 403, 404}
