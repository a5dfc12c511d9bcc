"""What the broker knows of each queue, by AMQP or by the management API: messages, consumers, missing bindings."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import aio_pika
import httpx
import structlog

from chassis.messaging.addresses import connect
from chassis.messaging.errors import connection_may_be_lost
from chassis.messaging.topology import JOURNAL
from ops.audit.access import Urls
from ops.management import Administration
from ops.subscriptions import TOPOLOGY

log = structlog.get_logger(__name__)

TIMEOUT_SECONDS: Final = 10.0

QUEUES: Final = [queue for queue in TOPOLOGY.queues if queue.name != JOURNAL]

UNAVAILABLE: Final = (OSError, TimeoutError, aio_pika.exceptions.AMQPError, httpx.HTTPError)


class Queue(NamedTuple):
    """A queue at one moment. By AMQP the number of unacknowledged messages is unknown: None."""

    ready: int
    unacknowledged: int | None
    consumers: int


@dataclass(frozen=True)
class Queues:
    """Those of the topology that exist, without the journal."""

    found: Mapping[str, Queue]
    unbound: frozenset[str] = frozenset()
    """Queues that lack a declared binding, or do not exist; the management API alone knows."""
    delayed: bool = False
    """Whether the figures come from the management API, and may be ten seconds old."""


async def read_queues(urls: Urls) -> Queues | None:
    """All queues, by the management API if its URL is given; None if the broker is not available, or has no URL."""
    try:
        return await _queues(urls)
    except UNAVAILABLE:
        return None


async def queue_depths(urls: Urls) -> dict[str, int] | None:
    """Messages in each queue, by its name; None if the broker is not available.

    By AMQP, with the login of the service that consumes the queue, the number is of this moment. The management API's
    may be ten seconds old, and includes messages that are delivered and not acknowledged.
    """
    try:
        queues = await _queues(urls)
    except UNAVAILABLE as error:
        log.warning("audit.broker_unavailable", error=repr(error))
        return None
    if queues is None:
        return None
    return {name: one.ready + (one.unacknowledged or 0) for name, one in queues.found.items()}


async def _queues(urls: Urls) -> Queues | None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        if urls.rabbitmq_api is not None:
            return await asyncio.to_thread(_by_api, urls.rabbitmq_api, urls.vhost)
        if urls.amqp:
            with connection_may_be_lost():
                return Queues(await _by_amqp(urls.amqp))
    return None


async def _by_amqp(amqp: Mapping[str, str]) -> dict[str, Queue]:
    found: dict[str, Queue] = {}
    for service, address in amqp.items():
        async with await connect(address) as connection:
            for queue in QUEUES:
                if queue.service != service:
                    continue
                channel = await connection.channel()  # one that does not find a queue is closed
                try:
                    declared = (await channel.get_queue(queue.name)).declaration_result
                except aio_pika.exceptions.ChannelNotFoundEntity:
                    continue
                messages, consumers = declared.message_count or 0, declared.consumer_count or 0
                found[queue.name] = Queue(messages, None, consumers)
    return found


def _by_api(api_url: str, vhost: str) -> Queues:
    with Administration(api_url) as broker:
        states, bound = broker.queues(vhost), broker.bindings(vhost)
    found = {queue.name: Queue(*states[queue.name]) for queue in QUEUES if queue.name in states}
    unbound = [q.name for q in QUEUES if not {(*b, q.name) for b in q.bindings} <= bound]
    return Queues(found, frozenset(unbound), delayed=True)
