"""Limits of one client, on a service process with small ones: it refuses, keeps its memory, and serves others."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.fixtures import Install
from tests.support.processes import Processes, ServiceProcess
from tests.support.registering import a_registration

SETTINGS: Final = {
    "CHORUS_HTTP_URL_BYTES": "256",
    "CHORUS_HTTP_HEADER_BYTES": "2048",
    "CHORUS_HTTP_HEADERS": "20",
    "CHORUS_HTTP_HEAD_SECONDS": "0.5",
    "CHORUS_HTTP_BODY_SECONDS": "1",
    "CHORUS_CONNECTIONS_PER_ADDRESS": "40",
    "CHORUS_REGISTRATIONS_PER_CLIENT": "2",
    "CHORUS_TRUSTED_PROXIES": "127.0.0.2, 10.0.0.0/8",
}

ENOUGH: Final = 16 * 1024 * 1024
"""Bytes that a client sends if it is not refused."""

MEMORY_LIMIT: Final = 8 * 1024 * 1024
"""How much more memory a service may have after it."""

HEAD: Final = b"GET /live HTTP/1.1\r\nHost: x\r\n"
POST: Final = b"POST /user/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
async def running(install_chorus: Install, module_processes: Processes) -> ServiceProcess:
    installation = await install_chorus("web_limits", "users")
    [process] = await module_processes.start(installation, "users", settings=SETTINGS)
    return process


@pytest.fixture
async def service(running: ServiceProcess) -> AsyncIterator[ServiceProcess]:
    yield running
    assert (await sent(running, HEAD + b"Connection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert "Traceback" not in running.log


async def sent(service: ServiceProcess, first: bytes, again: bytes = b"") -> bytes:
    """Send bytes, then others again until the service answers or closes; returns what it has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    answering = asyncio.create_task(reader.read())
    block = again * (65_536 // len(again)) if again else b""
    try:
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                writer.write(first)
                for total in itertools.count(len(block), len(block) or ENOUGH):
                    if answering.done() or not block or total > ENOUGH:
                        break
                    writer.write(block)
                    await writer.drain()
                return await answering
        return b""
    finally:
        answering.cancel()
        writer.close()


def memory(service: ServiceProcess) -> int:
    """Bytes of memory in use."""
    pages = int(Path(f"/proc/{service.child.pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize(
    ("first", "again", "expected"),
    [
        (b"GET /", b"x", 414),
        (HEAD + b"X: ", b"x", 431),
        (HEAD, b"x", 431),
        (HEAD, b"A: b\r\n", 431),
        (CHUNKED + b"1;", b"e", 413),
        (CHUNKED + b"0\r\n", b"Trailer: x\r\n", 413),
        (CHUNKED, b"1\r\nx\r\n", 413),
    ],
    ids=["url", "value", "name", "headers", "extension", "trailers", "chunks"],
)
async def test_what_has_no_end_takes_no_memory(
    service: ServiceProcess, first: bytes, again: bytes, expected: int
) -> None:
    before = memory(service)
    answer = await sent(service, first, again)
    # The answer may be lost with the connection: the client sends while the service closes.
    assert not answer or int(answer.split()[1]) in {expected, 400}
    assert memory(service) - before < MEMORY_LIMIT


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /" + b"x" * 256 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (HEAD + b"A: b\r\n" * 20 + b"\r\n", 431),
        (HEAD + b"A: " + b"b" * 2048 + b"\r\n\r\n", 431),
        (HEAD + b"A: ", 408),
        (POST + b"Content-Length: 5\r\n\r\nab", 408),
        (CHUNKED + b"5\r\nab", 408),
    ],
    ids=["url", "count", "size", "half a head", "half a body", "half a chunk"],
)
async def test_settings_are_the_limits(
    service: ServiceProcess, request_: bytes, expected: int
) -> None:
    answer = await sent(service, request_)
    assert int(answer.split()[1]) == expected


async def test_connections_of_one_address_are_limited(service: ServiceProcess) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(60)]
    first = await asyncio.gather(*(reader.read(16) for reader, _ in opened))
    assert b"HTTP/1.1 429 Too" in first
    for _, writer in opened:
        writer.close()


async def statuses(service: ServiceProcess, source: str, *forwarded: str) -> list[int]:
    """The answers to registrations from an address, each with an X-Forwarded-For."""
    transport = httpx.AsyncHTTPTransport(local_address=source)
    async with httpx.AsyncClient(transport=transport, base_url=service.url) as http:
        return [
            (
                await http.post(
                    "/user/register", json=a_registration(), headers={"X-Forwarded-For": value}
                )
            ).status_code
            for value in forwarded
        ]


async def test_only_a_trusted_proxy_names_clients(service: ServiceProcess) -> None:
    claimed = [f"203.0.113.{n}" for n in range(3)]
    assert await statuses(service, "127.0.0.3", *claimed) == [201, 201, 429]
    assert await statuses(service, "127.0.0.2", *claimed) == [201, 201, 201]
    appended = [f"203.0.113.{n}, 198.51.100.1, 10.1.2.3" for n in range(3)]
    assert await statuses(service, "127.0.0.2", *appended) == [201, 201, 429]


async def test_a_trusted_proxy_has_no_limit_of_connections(service: ServiceProcess) -> None:
    opened = [
        await asyncio.open_connection("127.0.0.1", service.port, local_addr=("127.0.0.2", 0))
        for _ in range(60)
    ]
    for reader, writer in opened:
        writer.write(HEAD + b"\r\n")
        assert (await reader.read(16)).startswith(b"HTTP/1.1 200")
        writer.close()
