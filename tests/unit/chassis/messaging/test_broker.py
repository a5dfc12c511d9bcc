"""A broker that closes the connection, or refuses, at every step of connecting; aio-pika raises six kinds of errors."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pamqp.frame
import pytest
import uvloop
from pamqp.base import Frame
from pamqp.commands import Connection
from pamqp.common import FieldTable
from pamqp.exceptions import UnmarshalingException

from chassis.messaging.addresses import BrokerAddresses, connect
from chassis.messaging.broker import RabbitConsumer
from chassis.messaging.publisher import Publisher
from ops.audit.access import Urls
from ops.audit.broker import queue_depths
from ops.dead_letters import DeadLetters
from tests.support.eventually import eventually

ATTEMPTS = 30
"""Which error aio-pika raises depends on timing: most kinds occur in most attempts, none in all."""

CAN: FieldTable = {"capabilities": {"publisher_confirms": True, "basic.nack": True}}
START = Connection.Start(server_properties=CAN, mechanisms="PLAIN", locales="en_US")
TUNE = Connection.Tune(channel_max=100, frame_max=131_072, heartbeat=0)
STEPS: dict[str, list[Frame]] = {
    "at once": [],
    "start": [START],
    "tune": [START, TUNE],
    "open": [START, TUNE, Connection.OpenOk()],
    "refused": [START, TUNE, Connection.Close(541, "vhost is down", 10, 40)],
}
"""What the broker sends before it closes the connection."""

FRAMES_BEFORE = (1, 1, 2)
"""The number of the client's frames before each of them."""


@pytest.fixture(params=STEPS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A broker that closes every connection at one step."""
    with serving(STEPS[request.param], socket.socket.close) as url:
        yield url


@pytest.fixture
def silent() -> Iterator[str]:
    """A broker that accepts connections and then sends nothing more."""
    accepted: list[socket.socket] = []
    with serving(STEPS["open"], accepted.append) as url:
        yield url
    for client in accepted:
        client.close()


@contextlib.contextmanager
def serving(sends: list[Frame], then: Callable[[socket.socket], None]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=[server, sends, then])
        thread.start()
        yield f"amqp://127.0.0.1:{server.getsockname()[1]}/"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def serve(server: socket.socket, sends: list[Frame], then: Callable[[socket.socket], None]) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            with contextlib.suppress(ConnectionError):
                for frame, count in zip(sends, FRAMES_BEFORE, strict=False):
                    read(client, count)
                    client.sendall(pamqp.frame.marshal(frame, 0))
            then(client)


def read(client: socket.socket, count: int) -> None:
    """Wait until this many frames have arrived."""
    received = b""
    while count:
        if not (some := client.recv(65_536)):
            raise ConnectionResetError
        received += some
        with contextlib.suppress(UnmarshalingException):
            while received and count:
                consumed, _, _ = pamqp.frame.unmarshal(received)
                received = received[consumed:]
                count -= 1


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "attempt",
    [
        lambda url: RabbitConsumer(BrokerAddresses(url, "test")).start(),
        lambda url: Publisher(url, "test").publish([]),
        lambda url: DeadLetters.of(url).__aenter__(),
    ],
    ids=["consumers", "publisher", "administrator"],
)
def test_a_lost_connection_is_a_connection_error_for_every_client(
    url: str, attempt: Callable[[str], Awaitable[object]], run: Callable[[Any], None]
) -> None:
    async def again_and_again() -> None:
        for _ in range(ATTEMPTS):
            with pytest.raises(ConnectionError):
                await attempt(url)

    run(again_and_again())


async def test_queue_depths_are_none_without_the_broker(url: str) -> None:
    for _ in range(ATTEMPTS):
        assert await queue_depths(Urls({}, {"billing": url})) is None


async def test_a_start_that_is_cancelled_while_it_closes_does_not_retry(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.messaging.broker.RESTORE_SECONDS", 0.1)
    consumer = RabbitConsumer(BrokerAddresses(silent, "test"))
    starting = asyncio.create_task(consumer.start())

    async def given_up() -> bool:
        return consumer._latest is not None and consumer._latest.close_called

    await eventually(given_up)
    await cancelled(starting)
    assert consumer._latest is not None
    assert consumer._latest.is_closed


async def test_a_close_of_a_publisher_that_is_cancelled_does_not_continue(silent: str) -> None:
    publisher = Publisher(silent, "test")
    publisher._connection = connection = await connect(silent)
    closing = asyncio.create_task(publisher.close())

    async def begun() -> bool:
        return publisher._connection is None

    await eventually(begun)
    await cancelled(closing)
    await connection.close()


async def cancelled(task: asyncio.Task[None]) -> None:
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
