"""The addresses of the broker's nodes and of its management API, and a plain connection to one of the nodes.

An address is a URL, or several separated by commas, one for each node of a cluster: with the same virtual host and the
same login. Each attempt to connect goes to the next node, round-robin.
"""

import contextlib
import itertools
import ssl
from typing import Final, TypedDict
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

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


def vhost_of(address: str) -> str:
    """The vhost in an AMQP address, "/" if it names none. All nodes of a cluster have the same."""
    return unquote(urlsplit(node_urls(address)[0]).path[1:]) or "/"


def login_of(url: str) -> tuple[str, str]:
    """User and password that a URL names, each "guest" if it does not."""
    login = urlsplit(url)
    return unquote(login.username or "guest"), unquote(login.password or "guest")


def with_login(url: str, user: str, password: str) -> str:
    """A URL with another login."""
    parts = urlsplit(url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))


class ManagementApi(TypedDict):
    """Arguments of an httpx client."""

    base_url: str
    auth: tuple[str, str]
    trust_env: bool
    verify: ssl.SSLContext


def trusted(url: str) -> ssl.SSLContext:
    """The CAs that may have signed a server's certificate: those of the file `cafile` in its URL, else the system's.

    Raises LookupError if that file cannot be used.
    """
    [*_, cafile] = parse_qs(urlsplit(url).query).get("cafile", [None])
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise LookupError(f"cafile={cafile} in a broker's URL: {error.strerror}") from None


def management_api(url: str) -> ManagementApi:
    """A client's arguments for RabbitMQ's management API, with the login that its URL names.

    https://www.rabbitmq.com/docs/management#http-api. Raises ValueError if the URL's port is not a number, and
    LookupError as `trusted` does.
    """
    parts = urlsplit(url)
    port = parts.port or (15671 if parts.scheme == "https" else 15672)
    host = (
        f"[{parts.hostname}]:{port}"
        if ":" in (parts.hostname or "")
        else f"{parts.hostname}:{port}"
    )
    base_url = urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/api/", "", ""))
    return ManagementApi(
        base_url=base_url, auth=login_of(url), trust_env=False, verify=trusted(url)
    )


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
