"""The connection of a service's consumers to the broker: restores itself, and supervises every consumer."""

import asyncio
import contextlib
from typing import Any, Final

import structlog
from aio_pika.abc import AbstractRobustChannel
from aio_pika.exceptions import ChannelInvalidStateError
from aiormq import Channel
from faststream.rabbit import RabbitBroker
from faststream.rabbit.subscriber import RabbitSubscriber

from chassis.messaging.addresses import CONNECT_SECONDS, BrokerAddresses
from chassis.messaging.errors import connection_may_be_lost, is_being_cancelled
from chassis.messaging.private_names import (
    RESTORE_SECONDS,
    RestoringConnection,
    connect_with,
    discard_connection,
)

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 5.0
"""Interval between two checks of the consumers. One that fails two checks in a row is restored."""

ANSWER_SECONDS: Final = 2.0
"""Timeout for the broker's answer to a readiness check."""


class RabbitConsumer(RabbitBroker):
    """FastStream's broker, connected to one of several nodes."""

    def __init__(self, addresses: BrokerAddresses, **options: Any) -> None:
        super().__init__(str(addresses.next()), timeout=CONNECT_SECONDS, **options)
        self._addresses = addresses
        self._latest: RestoringConnection | None = None
        """FastStream itself keeps a connection only once a channel is open on it."""
        connect_with(self, self._make)

    def _make(self, url: Any, **options: Any) -> RestoringConnection:
        self._latest = RestoringConnection(self._addresses, url, **options)
        return self._latest

    @property
    def latest_connection(self) -> RestoringConnection:
        """The latest connection, open or not. Raises ConnectionError before the first."""
        if self._latest is None:
            raise ConnectionError("not connected")
        return self._latest

    async def start(self) -> None:
        """Connect and start all consumers. After a failure everything is closed, and it can be called again.

        Raises OSError, or an AMQP error if the broker refuses.
        """
        try:
            with connection_may_be_lost():
                async with asyncio.timeout(RESTORE_SECONDS):
                    await super().start()
        except BaseException:
            await self._give_up()
            if is_being_cancelled():  # since then
                raise asyncio.CancelledError from None
            raise

    async def stop(self, *error: Any) -> None:
        """Stop consuming and close the connection, also where the broker no longer answers.

        FastStream keeps the connection open if it fails to close a channel. aio-pika then restores it for ever, and
        swallows the cancellation with which an event loop ends: the process would never end.
        """
        try:
            await super().stop(*error)
        finally:
            if self._latest is not None:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._latest.close()

    async def _give_up(self) -> None:
        # The connection first: FastStream closes channels first, and waits for ever on a connection that is silent.
        for close in (self._latest.close, self.stop) if self._latest else (self.stop,):
            with contextlib.suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await close()
        discard_connection(self)  # where `stop` has failed

    async def waiting(self, queue: str) -> int:
        """The number of ready messages in a queue. A passive declaration needs no permission to configure.

        Raises OSError or an AMQP error if the broker does not answer.
        """
        with connection_may_be_lost():
            async with (
                asyncio.timeout(CONNECT_SECONDS),
                self.latest_connection.channel() as channel,
            ):
                declared = await channel.get_queue(queue)
                return declared.declaration_result.message_count or 0

    async def fault(self) -> str:
        """Why not all queues are consumed; empty if the broker answers now, and every queue has its consumer.

        FastStream's ping ignores a frozen broker.
        """
        try:
            with connection_may_be_lost():
                async with asyncio.timeout(ANSWER_SECONDS):
                    channel = await self.latest_connection.channel()
                    await channel.close()
                    stopped = ", ".join(await self._stopped())
                    return f"not consumed: {stopped}" if stopped else ""
        except Exception as error:
            return type(error).__name__

    async def keep_consuming(self) -> None:
        """Restore consumers that have stopped, until cancelled; the others go on meanwhile.

        A broker may close one channel and leave the connection open. aio-pika then reopens the channel once. If that
        fails, for want of a permission or of the queue, nothing but this restores its consumer.
        """
        before: set[str] = set()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            connection = self._latest
            if connection is None or connection.close_called or not connection.connected.is_set():
                before = set()
                continue
            stopped = await self._stopped()
            for queue in before & stopped.keys():
                await self._restore(queue, stopped[queue])
            before = set(stopped)

    async def _restore(self, queue: str, channel: AbstractRobustChannel) -> None:
        try:
            with connection_may_be_lost():
                async with asyncio.timeout(RESTORE_SECONDS):
                    await channel.restore()
        except Exception as error:
            log.warning("consumer.stopped", queue=queue, error=repr(error))
        else:
            if await _is_consuming(channel):
                log.info("consumer.restored", queue=queue)
            else:
                # The channel is open, so there was nothing to restore: the queue is gone, and aio-pika polls for it.
                log.warning("consumer.stopped", queue=queue, error="its consumer was cancelled")

    async def channels(self) -> dict[str, AbstractRobustChannel]:
        """The channel of each consumer, by its queue: every consumer has its own."""
        manager = self.config.broker_config.channel_manager
        return {
            one.queue.name: await manager.get_channel(one.channel)
            for one in self.subscribers
            if isinstance(one, RabbitSubscriber)
        }

    async def _stopped(self) -> dict[str, AbstractRobustChannel]:
        """The channels, by queue, that are closed or have no consumer."""
        channels = await self.channels()
        return {name: one for name, one in channels.items() if not await _is_consuming(one)}


async def _is_consuming(channel: AbstractRobustChannel) -> bool:
    # aio-pika's channel knows what should be open; the underlay channel knows what is.
    try:
        opened = await channel.get_underlay_channel()
    except ChannelInvalidStateError:
        return False
    return isinstance(opened, Channel) and bool(opened.consumers) and not opened.is_closed
