"""The addresses of the broker's nodes, and a plain connection to one of them.

An address is a URL, or several separated by commas, one for each node of a cluster: with the same virtual host and the
same login. Each attempt to connect goes to the next node, round-robin.
"""

import contextlib
import itertools
from typing import Final

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from yarl import URL

from chassis.messaging.errors import connection_may_be_lost

CONNECT_SECONDS: Final = 5.0
"""Timeout for a connection to one node; a frozen node accepts it and never replies."""

HEARTBEAT_SECONDS: Final = 10
"""A connection that has received nothing for about twice this time is lost."""


def node_urls(address: str) -> list[str]:
    """The URL of each node. Raises ValueError if there is none."""
    urls = [url for part in address.split(",") if (url := part.strip())]
    if not urls:
        raise ValueError("an AMQP address without a URL")
    return urls


class BrokerAddresses:
    """The nodes to connect to, in turn. RabbitMQ's management page shows `name` for the connection."""

    def __init__(self, address: str, name: str) -> None:
        query = {"heartbeat": str(HEARTBEAT_SECONDS), "name": name}
        urls = [make_url(url).update_query(query) for url in node_urls(address)]
        self._urls = itertools.cycle(urls)

    def next(self) -> URL:
        """The next node's URL."""
        return next(self._urls)


async def connect(address: str) -> AbstractConnection:
    """A connection to the first node that accepts it. Raises OSError or an AMQP error if none does."""
    *urls, last = node_urls(address)
    for url in urls:
        with contextlib.suppress(OSError, aio_pika.exceptions.AMQPError):
            return await _connect(url)
    return await _connect(last)


async def _connect(url: str) -> AbstractConnection:
    with connection_may_be_lost():
        return await aio_pika.connect(url, timeout=CONNECT_SECONDS)
