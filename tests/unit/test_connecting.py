"""Somebody who answers at the broker's address and hangs up at once, on uvloop, which the services run on.

aiormq says that in three ways, depending on how far it had come: with ConnectionResetError, AMQPConnectionError or, in
a quarter of all attempts, StopAsyncIteration.
"""

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop

from events.bus.nodes import Consumers, Nodes, connect
from events.bus.publisher import Publisher

ATTEMPTS = 100


@pytest.fixture
def url() -> Iterator[str]:
    """Where nobody stays."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        hanging_up = threading.Thread(target=hang_up, args=[server])
        hanging_up.start()
        yield f"amqp://{server.getsockname()[0]}:{server.getsockname()[1]}/"
        server.shutdown(socket.SHUT_RDWR)
        hanging_up.join()


def hang_up(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def say_that_it_is_lost(attempt: Callable[[], Awaitable[object]]) -> None:
    async def again_and_again() -> None:
        for _ in range(ATTEMPTS):
            with pytest.raises(ConnectionError):
                await attempt()

    uvloop.run(again_and_again())


def test_consumers_say_that_it_is_lost(url: str) -> None:
    say_that_it_is_lost(lambda: Consumers(Nodes(url, "test")).start())


def test_a_publisher_says_that_it_is_lost(url: str) -> None:
    say_that_it_is_lost(lambda: Publisher(url, "test").publish([]))


def test_an_administrator_is_told_that_it_is_lost(url: str) -> None:
    say_that_it_is_lost(lambda: connect(url))
