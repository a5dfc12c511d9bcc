"""FastStream, aio-pika and aiormq work as `private_names.py` and `RabbitConsumer` assume."""

import asyncio
import inspect
import socket
from contextlib import suppress
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Final

import aio_pika
import aiormq
import pytest
from aio_pika import RobustChannel, RobustConnection
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from chassis.messaging import private_names
from chassis.messaging.addresses import BrokerAddresses
from chassis.messaging.broker import RabbitConsumer
from chassis.messaging.private_names import RestoringConnection, discard_connection
from tests.support.eventually import eventually

ADDRESSES: Final = "amqp://127.0.0.1:1/,amqp://127.0.0.1:2/"


class TestPrivateNames:
    """A failure means that an upgrade has changed something that Chorus depends on."""

    @pytest.mark.parametrize("library", ["faststream", "aio-pika", "aiormq"])
    def test_the_docstring_names_the_installed_versions(self, library: str) -> None:
        assert f"{library} {version(library)}" in (private_names.__doc__ or ""), (
            "an upgrade: read its source for the names in private_names.py, then write its version there"
        )

    @pytest.mark.parametrize(
        "method",
        [
            getattr(RobustConnection, "_RobustConnection__connect_transport", None),
            getattr(RobustChannel, "_restore_consumers", None),
        ],
    )
    def test_the_overridden_methods_are_coroutines_without_arguments(self, method: Any) -> None:
        assert inspect.iscoroutinefunction(method)
        assert [*inspect.signature(method).parameters] == ["self"]

    async def test_each_attempt_to_connect_goes_to_the_next_node(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ports: list[int | None] = []

        async def refuse(connection: RestoringConnection, timeout: object) -> None:  # noqa: ASYNC109
            ports.append(connection.url.port)
            raise ConnectionRefusedError

        assert await _ports_tried(monkeypatch, refuse, ports) == [1, 2, 1, 2]

    async def test_an_attempt_to_connect_has_a_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ports: list[int | None] = []

        async def hang(connection: RestoringConnection, timeout: object) -> None:  # noqa: ASYNC109
            ports.append(connection.url.port)
            await asyncio.Event().wait()

        monkeypatch.setattr(private_names, "RESTORE_SECONDS", 0.01)
        assert await _ports_tried(monkeypatch, hang, ports) == [1, 2, 1, 2]

    async def test_restoring_the_consumers_of_a_channel_has_a_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts: list[RobustChannel] = []

        async def hang(channel: RobustChannel) -> bool:
            attempts.append(channel)
            await asyncio.Event().wait()
            return True

        monkeypatch.setattr(private_names, "RESTORE_SECONDS", 0.01)
        monkeypatch.setattr(RobustChannel, "_restore_consumers", hang)
        connection = _connection()
        connection.transport = SimpleNamespace(connection=SimpleNamespace(is_closed=False))  # type: ignore[assignment]
        connection.connected.set()
        channel = connection.channel()
        await connection.connect()
        try:
            await eventually(lambda: _at_least(attempts, 3))
        finally:
            connection.transport = None
            await connection.close()
        assert {*attempts} == {channel}

    async def test_faststream_makes_its_connection_with_our_class(self) -> None:
        consumer = RabbitConsumer(BrokerAddresses(_refusing(), "test"))
        with suppress(OSError):
            await RabbitBroker.start(consumer)
        assert type(consumer.latest_connection) is RestoringConnection
        await consumer.latest_connection.close()

    async def test_a_discarded_connection_is_made_anew(self) -> None:
        consumer = RabbitConsumer(BrokerAddresses(_refusing(), "test"))
        before = RabbitBroker("amqp://127.0.0.1:1/")
        assert (before._connection, before._channel) == (None, None)
        consumer._connection = consumer._channel = _connection()  # type: ignore[assignment]
        assert await consumer.connect() is consumer._connection
        discard_connection(consumer)
        with pytest.raises(OSError):  # noqa: PT011
            await consumer.connect()
        await consumer.latest_connection.close()

    async def test_every_subscriber_has_a_channel_of_its_own(self) -> None:
        """`RabbitConsumer.channels` gets them from the channel manager, by the subscriber's `channel`."""
        consumer = RabbitConsumer(BrokerAddresses(_refusing(), "test"))
        for name in ("one", "other"):
            consumer.subscriber(RabbitQueue(name, declare=False), channel=Channel())(lambda _: None)
        made: list[SimpleNamespace] = []

        async def channel(**_: object) -> SimpleNamespace:
            made.append(SimpleNamespace())
            return made[-1]

        connection = SimpleNamespace(channel=channel)
        consumer.config.broker_config.channel_manager.connect(connection)  # type: ignore[arg-type]
        channels = await consumer.channels()
        assert [*channels.values()] == made
        assert {*channels} == {"one", "other"}
        assert await consumer.channels() == channels
        assert len(made) == 2

    def test_a_channel_of_aiormq_lists_its_consumers(self) -> None:
        assert "self.consumers: dict[" in inspect.getsource(aiormq.Channel.__init__)


def _connection() -> RestoringConnection:
    addresses = BrokerAddresses(ADDRESSES, "test")
    url = addresses.next()
    addresses = BrokerAddresses(ADDRESSES, "test")
    return RestoringConnection(addresses, url, fail_fast=False, reconnect_interval=0)


async def _ports_tried(
    monkeypatch: pytest.MonkeyPatch, connect: Any, ports: list[int | None]
) -> list[int | None]:
    """The ports of the first four attempts to connect."""
    monkeypatch.setattr(aio_pika.connection.Connection, "connect", connect)
    connection = _connection()
    connecting = asyncio.create_task(connection.connect())
    try:
        await eventually(lambda: _at_least(ports, 4))
    finally:
        connecting.cancel()
        await connection.close()
    return ports[:4]


async def _at_least(found: list[Any], count: int) -> bool:
    return len(found) >= count


def _refusing() -> str:
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"amqp://127.0.0.1:{server.getsockname()[1]}/"
