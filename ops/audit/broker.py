"""How many messages are in each queue, by AMQP or by the management API."""

import asyncio
from collections.abc import Mapping
from typing import Final

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


async def queue_depths(urls: Urls) -> dict[str, int] | None:
    """Messages that are ready in each queue, by its name; None if the broker is not available.

    By AMQP, with the login of the service that consumes the queue, the number is of this moment. The management API's
    may be ten seconds old, and includes messages that are delivered and not acknowledged.
    """
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if urls.amqp:
                with connection_may_be_lost():
                    return await _by_amqp(urls.amqp)
            if urls.rabbitmq_api is not None:
                return await asyncio.to_thread(_by_api, urls.rabbitmq_api, urls.vhost)
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError, httpx.HTTPError) as error:
        log.warning("audit.broker_unavailable", error=repr(error))
    return None


async def _by_amqp(amqp: Mapping[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for service, address in amqp.items():
        async with await connect(address) as connection:
            channel = await connection.channel()
            for queue in TOPOLOGY.queues:
                if queue.service == service:
                    declared = await channel.get_queue(queue.name)
                    found[queue.name] = declared.declaration_result.message_count or 0
    return found


def _by_api(api_url: str, vhost: str) -> dict[str, int]:
    names = {queue.name for queue in TOPOLOGY.queues if queue.name != JOURNAL}
    with Administration(api_url) as broker:
        return {name: n for name, n in broker.depths(vhost).items() if name in names}
