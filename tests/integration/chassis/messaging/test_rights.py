"""Each service's broker login writes to its own exchange and its own dead letters, and reads its own queues alone."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, HeadersType
from aiormq.exceptions import ChannelAccessRefused, ChannelInvalidStateError

from apps import SERVICES
from chassis.messaging.topology import DEAD, dead_letter_exchange
from ops.subscriptions import TOPOLOGY
from tests.support.broker import Broker
from tests.support.fixtures import Install
from tests.support.installation import Installation

BUILT_IN: Final = ("", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.topic")
"""The exchanges of every vhost; the first leads straight to each queue."""

Attempt = Callable[[AbstractChannel], Awaitable[object]]


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    """All four services, none of them running."""
    return await install_chorus("every_right")


async def _publish(channel: AbstractChannel, exchange: str, key: str) -> None:
    target = await channel.get_exchange(exchange, ensure=False)
    await target.publish(aio_pika.Message(b"{}"), key, mandatory=False)


async def _read(channel: AbstractChannel, queue: str) -> None:
    message = await (await channel.get_queue(queue, ensure=False)).get(fail=False)
    if message is not None:
        await message.reject(requeue=True)


async def _purge(channel: AbstractChannel, queue: str) -> object:
    return await (await channel.get_queue(queue, ensure=False)).purge()


async def _bind(channel: AbstractChannel, queue: str, exchange: str) -> object:
    return await (await channel.get_queue(queue, ensure=False)).bind(exchange, "#")


async def _bind_exchange(channel: AbstractChannel, exchange: str, source: str) -> object:
    return await (await channel.get_exchange(exchange, ensure=False)).bind(source, "#")


async def _allowed(connection: AbstractConnection, attempt: Attempt) -> bool:
    """Whether the broker allows it. Raises TimeoutError if it says nothing."""
    channel = await connection.channel()
    try:
        async with asyncio.timeout(20):
            await attempt(channel)
            await channel.close()
    except ChannelAccessRefused:
        return False
    except ChannelInvalidStateError as error:
        # A publish is refused by closing the channel, before its confirm.
        if "ACCESS_REFUSED" not in str(error):
            raise
        return False
    return True


def _attempts() -> dict[str, Attempt]:
    """Every exchange and queue, by each way of using it."""
    exchanges, queues = TOPOLOGY.exchanges, [queue.name for queue in TOPOLOGY.queues]
    found: dict[str, Attempt] = {
        f"write {exchange}": partial(_publish, exchange=exchange, key="nowhere")
        for exchange in (*BUILT_IN, *exchanges)
    }
    for queue in queues:
        found[f"write  for {queue}"] = partial(_publish, exchange="", key=queue)
        found[f"read {queue}"] = partial(_read, queue=queue)
        found[f"purge {queue}"] = partial(_purge, queue=queue)
        found[f"delete {queue}"] = partial(_delete_queue, queue=queue)
        for exchange in exchanges:
            found[f"bind {queue} to {exchange}"] = partial(_bind, queue=queue, exchange=exchange)
    for exchange in exchanges:
        found[f"delete {exchange}"] = partial(_delete_exchange, exchange=exchange)
        for source in exchanges:
            bind = partial(_bind_exchange, exchange=exchange, source=source)
            found[f"bind {exchange} to {source}"] = bind
    return found


async def _delete_queue(channel: AbstractChannel, queue: str) -> object:
    return await channel.queue_delete(queue, if_unused=True)


async def _delete_exchange(channel: AbstractChannel, exchange: str) -> object:
    return await channel.exchange_delete(exchange, if_unused=True)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_login_may_use_what_is_its_own_and_nothing_else(
    chorus: Installation, service: str
) -> None:
    attempts = _attempts()
    async with await aio_pika.connect(chorus.amqp_url(service)) as connection:
        allowed = await asyncio.gather(
            *(_allowed(connection, attempt) for attempt in attempts.values())
        )
    own = [queue.name for queue in TOPOLOGY.queues if queue.service == service]
    assert {name for name, may in zip(attempts, allowed, strict=True) if may} == {
        f"write {service}",
        f"write {dead_letter_exchange(service)}",
        *(f"{use} {queue}" for queue in own for use in ("read", "purge")),
    }


@pytest.mark.parametrize("header", ["CC", "BCC"])
@pytest.mark.parametrize("service", SERVICES)
async def test_more_routing_keys_in_a_header_reach_no_one_elses_dead_letters(
    chorus: Installation, service: str, header: str
) -> None:
    """RabbitMQ 3.10 checks topic permissions for the routing key alone, not for those in these headers."""
    broker = Broker(chorus.amqp_admin_url)
    await broker.open()
    try:
        async with await aio_pika.connect(chorus.amqp_url(service)) as connection:
            channel = await connection.channel()
            everyones: HeadersType = {header: [*SERVICES, *(f"dead.{name}" for name in SERVICES)]}
            message = aio_pika.Message(b"{}", headers=everyones)
            for exchange in (service, dead_letter_exchange(service)):
                target = await channel.get_exchange(exchange, ensure=False)
                await target.publish(message, service, mandatory=False)
        waiting = {name: await broker.waiting(f"{name}.{DEAD}") for name in SERVICES}
        assert waiting == dict.fromkeys(SERVICES, 0) | {service: 1}
    finally:
        await broker.purge(f"{service}.{DEAD}")
        await broker.close()
