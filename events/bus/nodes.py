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
from aio_pika import RobustConnection
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from faststream.rabbit import RabbitBroker
from yarl import URL

CONNECT_SECONDS: Final = 5.0
"""How long a node may take to let a connection in; one that is frozen accepts it and says nothing."""

HEARTBEAT_SECONDS: Final = 10
"""A connection over which nothing has come for about twice this time is lost."""


def node_urls(address: str) -> list[str]:
    """The URL of each node. Raises ValueError if there is none."""
    urls = [url for part in address.split(",") if (url := part.strip())]
    if not urls:
        raise ValueError("an AMQP address without a URL")
    return urls


class Nodes:
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
            return await aio_pika.connect(url, timeout=CONNECT_SECONDS)
    return await aio_pika.connect(last, timeout=CONNECT_SECONDS)


class _Connection(RobustConnection):
    """aio-pika's connection that restores itself, except that it does so at the next node."""

    def __init__(self, nodes: Nodes, url: Any, **options: Any) -> None:
        super().__init__(url, **options)
        self._nodes = nodes

    # aio-pika has no place of its own to say where to connect to next time; a test with three nodes holds this one.
    async def _RobustConnection__connect_transport(self) -> None:  # noqa: N802
        self.url = self._nodes.next()
        await super()._RobustConnection__connect_transport()  # type: ignore[misc]


class Consumers(RabbitBroker):
    """FastStream's broker, connected to one of several nodes."""

    def __init__(self, nodes: Nodes, **options: Any) -> None:
        super().__init__(str(nodes.next()), timeout=CONNECT_SECONDS, **options)
        self._connection_kwargs["connection_class"] = partial(_Connection, nodes)

    async def waiting(self, queue: str) -> int:
        """How many messages are ready in a queue. Any login may ask: a passive declaration makes nothing.

        Raises OSError, an AMQP error or RuntimeError if the broker does not answer; a connection that is lost meanwhile
        shows as asyncio.CancelledError.
        """
        if self._connection is None:
            raise ConnectionError("not connected")
        async with asyncio.timeout(CONNECT_SECONDS), self._connection.channel() as channel:
            declared = await channel.get_queue(queue)
            return declared.declaration_result.message_count or 0
