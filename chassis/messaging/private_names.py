"""Every private name of FastStream and aio-pika that Chorus uses, and what for.

Written against faststream 0.7.8, aio-pika 10.2.1 and aiormq 7.2.4. `tests/unit/chassis/messaging/test_private_names.py`
fails if a release changes one of them, `tests/architecture/test_private_names.py` if another file uses one.

- `RobustConnection.__connect_transport` makes each new connection, always to the same URL and without a timeout for
  restoring the channels. Overridden: it goes to the next node, and has a timeout.
- `RobustChannel._restore_consumers` restores the consumers of one channel without a timeout. Overridden: it has one.
- `RabbitBroker._connection_kwargs` are the arguments of `aio_pika.connect_robust`. `connection_class` is added.
- `RabbitBroker._connection` and `._channel` are what FastStream believes to be open. Reset after a failed start.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aio_pika import RobustChannel, RobustConnection
from faststream.rabbit import RabbitBroker

from chassis.messaging.addresses import BrokerAddresses

RESTORE_SECONDS: Final = 30.0
"""Timeout for a new connection with all its consumers, and for the consumers of one channel; both take 0.1 s."""


class RestoringChannel(RobustChannel):
    """aio-pika's channel that restores its consumers, with a timeout."""

    async def _restore_consumers(self) -> bool:
        async with asyncio.timeout(RESTORE_SECONDS):
            return await super()._restore_consumers()


class RestoringConnection(RobustConnection):
    """aio-pika's connection that restores itself: at the next node, and with a timeout.

    One task of aio-pika makes new connections and restores the channels on them. If the connection is lost while it
    restores a channel, that task waits for a connection that only it could make: hence the timeout.
    """

    CHANNEL_CLASS = RestoringChannel

    def __init__(self, addresses: BrokerAddresses, url: Any, **options: Any) -> None:
        super().__init__(url, **options)
        self._addresses = addresses

    async def _RobustConnection__connect_transport(self) -> None:  # noqa: N802
        self.url = self._addresses.next()
        try:
            async with asyncio.timeout(RESTORE_SECONDS):
                await super()._RobustConnection__connect_transport()  # type: ignore[misc]
        except TimeoutError:
            await self.drop()
            raise

    async def drop(self) -> None:
        """Close the transport; aio-pika then connects to the next node and restores all consumers."""
        if self.transport is not None:
            await self.transport.connection.close(ConnectionError("it is not restored in time"))


def connect_with(
    broker: RabbitBroker, connection_class: Callable[..., RestoringConnection]
) -> None:
    """Have a broker of FastStream make its connections by calling `connection_class`."""
    broker._connection_kwargs["connection_class"] = connection_class  # noqa: SLF001


def discard_connection(broker: RabbitBroker) -> None:
    """Have a broker of FastStream make a new connection at its next start."""
    broker._connection = broker._channel = None  # noqa: SLF001
    broker.config.disconnect()
