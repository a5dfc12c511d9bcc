"""A publisher's own connection to the broker.

It is not the consumers' connection: under a memory or disk alarm RabbitMQ blocks connections that publish, and a shared
one would stop consuming as well. It does not restore itself; after a failure it is replaced as far as that helps.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from chassis import crash_points
from chassis.messaging.addresses import BrokerAddresses
from chassis.messaging.content_headers import UNREADABLE
from chassis.messaging.errors import connection_may_be_lost
from chassis.messaging.message import MessageBatch, to_message
from events.base import Event

CONFIRM_SECONDS: Final = 5.0
"""Timeout for a confirm; a broker that is frozen or blocked is treated like one that is away."""

CLOSE_SECONDS: Final = 1.0
"""Timeout for the broker's answer to the end of a channel or connection."""

RETURNED, REFUSED, TIMEOUT, LOST, UNFIT = REASONS = (
    "returned", "refused", "timeout", "lost", "unfit",
)  # fmt: skip
"""Why a publish was not confirmed: no queue takes the message, the broker refuses it, it does not answer in time, the
connection was lost, or AMQP cannot carry the message."""

HEADER_BYTES: Final = 64
"""What a content header has beside the properties of a message, and more."""


class UnfitError(Exception):
    """A message that AMQP cannot carry. It is not sent: the broker would close the connection."""


class Publication(NamedTuple):
    """A message and its way. If `mandatory`, the broker returns it where no queue takes it."""

    exchange: str
    routing_key: str
    message: aio_pika.Message
    mandatory: bool = True


def publication(batch: MessageBatch, prefix: str = "") -> Publication:
    """A message batch on its way to the queues that are bound to its routing key, after a prefix.

    Without a prefix an event to which no service subscribes is not mandatory.
    """
    first = batch[0]
    kind = Event.by_key.get(first.routing_key)
    mandatory = bool(prefix) or kind is None or kind.subscribed
    return Publication(first.exchange, prefix + first.routing_key, to_message(batch), mandatory)


def reason(error: BaseException) -> str:
    """Which of REASONS an error of `Publisher.publish` is."""
    if isinstance(error, DeliveryError):
        return RETURNED if isinstance(error, PublishError) else REFUSED
    if isinstance(error, UnfitError):
        return UNFIT
    return TIMEOUT if isinstance(error, TimeoutError) else LOST


async def _check(message: aio_pika.Message, channel: AbstractChannel) -> None:
    """Raise UnfitError if the properties cannot be encoded or do not fit into a frame, or if some were not decoded."""
    if UNREADABLE in message.headers:
        raise UnfitError(f"cannot be decoded: {message.headers[UNREADABLE]!s}")
    try:
        size = len(message.properties.marshal()) + HEADER_BYTES
    except Exception as error:  # many kinds, by the value
        raise UnfitError(f"cannot be encoded: {error!r}"[:200]) from error
    opened = await channel.get_underlay_channel()
    if isinstance(opened, aiormq.Channel) and size > opened.max_content_size:
        raise UnfitError(f"a content header of {size} bytes")


class Publisher:
    """Publishes with confirms and a timeout."""

    def __init__(self, address: str, name: str) -> None:
        self._addresses = BrokerAddresses(address, name)
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()

    async def publish(self, publications: Sequence[Publication]) -> list[BaseException | None]:
        """Publish all, pipelined; returns for each None if the broker confirmed it, else the error (see `reason`).

        After a timeout or a loss the next `publish` opens a connection to the next node, after a refusal a channel.
        Concurrent calls share the channel, and wait for each other only while one is opened. Raises OSError or an AMQP
        error if none can be opened.
        """
        async with asyncio.timeout(CONFIRM_SECONDS):
            channel = await self._open()
        # gather would cancel the rest at the first failure; and a connection lost by heartbeat makes a pending
        # publish raise CancelledError, which must count as a failed publish and not as a shutdown.
        results = await asyncio.gather(
            *(self._publish(channel, one) for one in publications),
            return_exceptions=True,
        )
        reasons = {reason(error) for error in results if error is not None}
        if reasons & {TIMEOUT, LOST}:
            await self._discard(channel)
        elif REFUSED in reasons:
            # After a queue's leader has died, RabbitMQ 3.10 may refuse everything on a channel that knew the old
            # leader, for as long as that channel is open, though the queue has a new leader and accepts messages.
            if channel is self._channel:
                self._channel = None
            await _closed(channel)
        return results

    async def _publish(self, channel: AbstractChannel, publication: Publication) -> None:
        exchange, routing_key, message, mandatory = publication
        await _check(message, channel)
        target = await channel.get_exchange(exchange, ensure=False)
        async with asyncio.timeout(CONFIRM_SECONDS):
            result = await target.publish(message, routing_key, mandatory=mandatory)
        if crash_points.ARMED:
            crash_points.reached("publisher.after_publish", [message.type or ""])
        if not isinstance(result, Basic.Ack):
            raise ConnectionError(f"no confirm: {result!r}")

    async def _open(self) -> AbstractChannel:
        async with self._opening:
            if self._channel is not None and not self._channel.is_closed:
                return self._channel
            try:
                with connection_may_be_lost():
                    if self._connection is None or self._connection.is_closed:
                        self._connection = await aio_pika.connect(
                            self._addresses.next(), timeout=CONFIRM_SECONDS
                        )
                    self._channel = await self._connection.channel(on_return_raises=True)
            except BaseException:
                await self.close()
                raise
            return self._channel

    async def _discard(self, channel: AbstractChannel) -> None:
        """Close the connection of a channel, unless a concurrent call has done so."""
        if channel is self._channel:
            await self.close()

    async def close(self) -> None:
        """Close the connection, if one is open; the next `publish` opens one to the next node."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await _closed(connection)


async def _closed(opened: AbstractConnection | AbstractChannel) -> None:
    with contextlib.suppress(Exception), connection_may_be_lost():
        await asyncio.wait_for(opened.close(), CLOSE_SECONDS)
