"""A publisher's own connection to the broker.

It is not the consumers' connection: under a memory or disk alarm RabbitMQ blocks connections that publish, and a shared
one would stop consuming as well. It does not restore itself; its owner opens a new one after a failure.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError
from pamqp.commands import Basic

from chassis import crash_points
from chassis.messaging.addresses import BrokerAddresses
from chassis.messaging.errors import connection_may_be_lost

CONFIRM_SECONDS: Final = 5.0
"""Timeout for a confirm; a broker that is frozen or blocked is treated like one that is away."""

Publication = tuple[str, str, aio_pika.Message]
"""Exchange, routing key, message."""


class Publisher:
    """Publishes with confirms, the `mandatory` flag and a timeout."""

    def __init__(self, address: str, name: str) -> None:
        self._addresses = BrokerAddresses(address, name)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def publish(self, publications: Sequence[Publication]) -> list[BaseException | None]:
        """Publish all, pipelined; returns for each None if the broker confirmed it, else the error.

        `aio_pika.exceptions.PublishError` means that the message could not be routed to a queue, `DeliveryError` that
        the broker refused it. For a lost connection it is a ConnectionError, asyncio.CancelledError or TimeoutError.
        Raises OSError or an AMQP error if no connection can be opened.
        """
        async with asyncio.timeout(CONFIRM_SECONDS):
            channel = await self._open()
        # gather would cancel the rest at the first failure; and a connection lost by heartbeat makes a pending
        # publish raise CancelledError, which must count as a failed publish and not as a shutdown.
        results = await asyncio.gather(
            *(self._publish(channel, *publication) for publication in publications),
            return_exceptions=True,
        )
        if any(type(result) is DeliveryError for result in results):
            # Refused. After a queue's leader has died, RabbitMQ 3.10 may refuse everything on a channel that knew the
            # old leader, for as long as that channel is open, though the queue has a new leader and accepts messages.
            await self.close()
        return results

    async def _publish(
        self, channel: AbstractChannel, exchange: str, routing_key: str, message: aio_pika.Message
    ) -> None:
        target = await channel.get_exchange(exchange, ensure=False)
        async with asyncio.timeout(CONFIRM_SECONDS):
            result = await target.publish(message, routing_key, mandatory=True)
        if crash_points.ARMED:
            crash_points.reached("publisher.after_publish", [message.type or ""])
        if not isinstance(result, Basic.Ack):
            raise ConnectionError(f"no confirm: {result!r}")

    async def _open(self) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            await self.close()
            with connection_may_be_lost():
                self._connection = await aio_pika.connect(
                    self._addresses.next(), timeout=CONFIRM_SECONDS
                )
                self._channel = await self._connection.channel(on_return_raises=True)
        return self._channel

    async def close(self) -> None:
        """Close the connection, if one is open; the next `publish` opens one to the next node."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception), connection_may_be_lost():
                await asyncio.wait_for(connection.close(), CONFIRM_SECONDS)
