"""The nodes of the broker: whoever loses the one that it is connected to turns to the next.

An address is a URL, or several separated by commas, one for each node of a cluster: the same virtual host with the same
login behind each of them. Every attempt to connect is made at another node, in their order, round and round.
"""

import asyncio
import contextlib
import itertools
from functools import partial
from typing import Any, Final

import aio_pika
import structlog
from aio_pika import RobustChannel, RobustConnection
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from aio_pika.exceptions import ChannelInvalidStateError
from faststream.rabbit import RabbitBroker
from yarl import URL

from chassis.messaging.errors import connection_may_be_lost, is_being_cancelled

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 5.0
"""How long a node may take to let a connection in; one that is frozen accepts it and says nothing."""

HEARTBEAT_SECONDS: Final = 10
"""A connection over which nothing has come for about twice this time is lost."""

RESTORE_SECONDS: Final = 30.0
"""How long it may take to connect again until all queues are heard, or to hear one again; it takes a tenth of a
second."""

LOOK_SECONDS: Final = 5.0
"""How often to look whether all queues are heard. One that is not at two looks in a row is restored."""

ANSWER_SECONDS: Final = 2.0
"""How long the broker may take to show that it is there."""


def node_urls(address: str) -> list[str]:
    """The URL of each node. Raises ValueError if there is none."""
    urls = [url for part in address.split(",") if (url := part.strip())]
    if not urls:
        raise ValueError("an AMQP address without a URL")
    return urls


class BrokerAddresses:
    """Where to connect next; `name` is shown for the connection in RabbitMQ's management page."""

    def __init__(self, address: str, name: str) -> None:
        query = {"heartbeat": str(HEARTBEAT_SECONDS), "name": name}
        urls = [make_url(url).update_query(query) for url in node_urls(address)]
        self._round = itertools.cycle(urls)

    def next(self) -> URL:
        """The next node's URL."""
        return next(self._round)


async def connect(address: str) -> AbstractConnection:
    """A connection to the first node that lets us in. Raises OSError or an AMQP error if none does."""
    *urls, last = node_urls(address)
    for url in urls:
        with contextlib.suppress(OSError, aio_pika.exceptions.AMQPError):
            return await _connect(url)
    return await _connect(last)


async def _connect(url: str) -> AbstractConnection:
    with connection_may_be_lost():
        return await aio_pika.connect(url, timeout=CONNECT_SECONDS)


class _Channel(RobustChannel):
    """aio-pika's channel that restores itself, within a time."""

    async def _restore_consumers(self) -> bool:
        async with asyncio.timeout(RESTORE_SECONDS):
            return await super()._restore_consumers()


class _Connection(RobustConnection):
    """aio-pika's connection that restores itself, except that it does so at the next node, and within a time.

    aio-pika's own task makes new connections, and restores channels on them step by step. If the connection is lost
    between two steps, that task waits for a connection that only it could make: hence the limit.
    """

    CHANNEL_CLASS = _Channel

    def __init__(self, nodes: BrokerAddresses, url: Any, **options: Any) -> None:
        super().__init__(url, **options)
        self._nodes = nodes

    # aio-pika has no place of its own to say where to connect to next time; a test with three nodes holds this one.
    async def _RobustConnection__connect_transport(self) -> None:  # noqa: N802
        self.url = self._nodes.next()
        try:
            async with asyncio.timeout(RESTORE_SECONDS):
                await super()._RobustConnection__connect_transport()  # type: ignore[misc]
        except TimeoutError:
            await self.begin_anew()
            raise

    async def begin_anew(self) -> None:
        """Close what there is, for which a new connection is made at the next node, with all consumers."""
        if self.transport is not None:
            await self.transport.connection.close(ConnectionError("it is not restored in time"))


class RabbitConsumer(RabbitBroker):
    """FastStream's broker, connected to one of several nodes."""

    _connection: _Connection | None

    def __init__(self, nodes: BrokerAddresses, **options: Any) -> None:
        super().__init__(str(nodes.next()), timeout=CONNECT_SECONDS, **options)
        self._connection_kwargs["connection_class"] = partial(self._make, nodes)
        self._made: _Connection | None = None
        """The latest connection. FastStream holds one only once a channel is open on it."""

    def _make(self, nodes: BrokerAddresses, url: Any, **options: Any) -> _Connection:
        self._made = _Connection(nodes, url, **options)
        return self._made

    async def start(self) -> None:
        """Connect, and hear all queues; it may be tried again, for nothing is left of what did not succeed.

        Raises OSError, or an AMQP error if the broker is there and refuses.
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

    async def _give_up(self) -> None:
        # FastStream would close the channels first, and wait for ever where the connection has fallen silent.
        self._connection = made = self._made
        for close in (made.close, self.stop) if made else (self.stop,):
            with contextlib.suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await close()
        self._connection = self._channel = None  # where `stop` has failed
        self.config.disconnect()

    async def waiting(self, queue: str) -> int:
        """How many messages are ready in a queue. Any login may ask: a passive declaration makes nothing.

        Raises OSError or an AMQP error if the broker does not answer.
        """
        if self._connection is None:
            raise ConnectionError("not connected")
        with connection_may_be_lost():
            async with asyncio.timeout(CONNECT_SECONDS), self._connection.channel() as channel:
                declared = await channel.get_queue(queue)
                return declared.declaration_result.message_count or 0

    async def answers(self) -> bool:
        """Whether the broker answers by now, and every queue is heard. FastStream's ping says yes to a frozen one."""
        if self._connection is None:
            return False
        try:
            with connection_may_be_lost():
                async with asyncio.timeout(ANSWER_SECONDS):
                    channel = await self._connection.channel()
                    await channel.close()
                    return not await self._not_consuming()
        except Exception:
            return False

    async def keep_consuming(self) -> None:
        """See to it that every queue is heard, until cancelled.

        A broker may close one channel and let the connection stand. aio-pika tries once to open it again; if that
        fails, because a right is missing or the queue is away for a moment, nobody would ever hear that queue again.
        The other queues are heard meanwhile.
        """
        before: set[str] = set()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            connection = self._connection
            if connection is None or connection.close_called or not connection.connected.is_set():
                before = set()
                continue
            stopped = await self._not_consuming()
            for queue in before & stopped.keys():
                await self._restore(queue, stopped[queue])
            before = set(stopped)

    async def _restore(self, queue: str, subscriber: Any) -> None:
        try:
            with connection_may_be_lost():
                async with asyncio.timeout(RESTORE_SECONDS):
                    await subscriber._queue_obj.channel.restore()  # noqa: SLF001
        except Exception as error:
            log.warning("consumer.stopped", queue=queue, error=repr(error))
        else:
            if await _is_consuming(subscriber):
                log.info("consumer.restored", queue=queue)
            else:
                # Its channel stands, and there was nothing to restore: the queue has gone, and aio-pika looks for it.
                log.warning("consumer.stopped", queue=queue, error="its consumer was cancelled")

    async def _not_consuming(self) -> dict[str, Any]:
        """The subscribers, by their queues, that do not listen on an open channel."""
        subscribers: list[Any] = self.subscribers
        return {one.queue.name: one for one in subscribers if not await _is_consuming(one)}


async def _is_consuming(subscriber: Any) -> bool:
    # FastStream and aio-pika say only whether somebody wanted to listen.
    queue, tag = subscriber._queue_obj, subscriber._consumer_tag  # noqa: SLF001
    if queue is None:
        return False
    try:
        channel = await queue.channel.get_underlay_channel()
    except ChannelInvalidStateError:
        return False
    return tag in channel.consumers and not channel.is_closed
