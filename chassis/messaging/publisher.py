"""A publisher's own connection to the broker.

Separate from the consumers' connection: under a memory or disk alarm RabbitMQ blocks connections that publish, and
a shared one would stop consuming as well. It does not restore itself; whoever uses it opens a new one after a failure.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError
from pamqp.commands import Basic

from chassis.messaging.broker import BrokerAddresses
from chassis.messaging.errors import connection_may_be_lost
from chassis.runtime import crash_points as crash

CONFIRM_SECONDS: Final = 5.0
"""How long a confirm may take; a broker that is frozen or blocked is treated like one that is away."""

Publication = tuple[str, str, aio_pika.Message]
"""Exchange, routing key, message."""


class Publisher:
    """Publishes with confirms, `mandatory`, and a time limit."""

    def __init__(self, address: str, name: str) -> None:
        self._nodes = BrokerAddresses(address, name)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def publish(self, publications: Sequence[Publication]) -> list[BaseException | None]:
        """Publish all, pipelined; for each None once the broker has confirmed it, else what went wrong.

        `aio_pika.exceptions.PublishError` means that no queue takes the message, `DeliveryError` that the broker
        refused it. A lost connection shows as ConnectionError, asyncio.CancelledError or TimeoutError.
        Raises OSError or an AMQP error if there is no connection to be had.
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
            # Refused. When a queue's leader has died, RabbitMQ 3.10 may refuse everything on a channel that knew the
            # old one, for as long as that channel lives, though the queue has a new leader and takes messages.
            await self.close()
        return [
            None
            if isinstance(result, Basic.Ack)
            else result
            if isinstance(result, BaseException)
            else ConnectionError(f"no confirm: {result!r}")
            for result in results
        ]

    async def _publish(
        self, channel: AbstractChannel, exchange: str, routing_key: str, message: aio_pika.Message
    ) -> object:
        target = await channel.get_exchange(exchange, ensure=False)
        async with asyncio.timeout(CONFIRM_SECONDS):
            result = await target.publish(message, routing_key, mandatory=True)
        if crash.ARMED:
            crash.reached("publisher.after_publish", [message.type or ""])
        return result

    async def _open(self) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            await self.close()
            with connection_may_be_lost():
                self._connection = await aio_pika.connect(
                    self._nodes.next(), timeout=CONFIRM_SECONDS
                )
                self._channel = await self._connection.channel(on_return_raises=True)
        return self._channel

    async def close(self) -> None:
        """Close the connection, if there is one; the next `publish` opens one to the next node."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception), connection_may_be_lost():
                await asyncio.wait_for(connection.close(), CONFIRM_SECONDS)
