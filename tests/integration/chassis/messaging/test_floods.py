"""A source of bad events: the good ones of its queue go on, and none of the bad is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.messaging.dead_letters import DEAD_LETTERED, LEFT_TO_BROKER, DeadLetterQueue
from chassis.messaging.publisher import Publisher
from chassis.messaging.topology import DEAD, dead_letter_exchange, queue_name
from chassis.runtime.service import create_app
from events.orders import OrderPlaced
from ops.management import Administration
from ops.subscriptions import TOPOLOGY
from tests.support.broker import Broker
from tests.support.builders import an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService

QUEUE = queue_name("billing", OrderPlaced)
DEAD_QUEUE = f"billing.{DEAD}"
FLOOD = 100
"""Several times the prefetch of a queue."""


async def flood(service: RunningService, count: int = FLOOD) -> set[str]:
    """Send malformed messages; returns their ids."""
    ids = [f"bad {number}" for number in range(count)]
    bad = (aio_pika.Message(b"{", message_id=id) for id in ids)
    await asyncio.gather(*(service.broker.send(m, "", QUEUE) for m in bad))
    return set(ids)


async def taken(broker: Broker) -> list[str]:
    """Take the ids of all messages that are in the dead-letter queue."""
    found = []
    while (message := await broker.take(DEAD_QUEUE)) is not None:
        found.append(message.message_id or "")
    return found


async def test_each_message_of_a_flood_is_dead_lettered_and_counted(
    billing: RunningService,
) -> None:
    counted = DEAD_LETTERED.labels(QUEUE)._value.get()
    sent = await flood(billing, 1_000)
    [good] = await billing.processes(OrderPlaced(order=an_order()))
    found: list[str] = []

    async def all_there() -> bool:
        found.extend(await taken(billing.broker))
        return {*found} >= sent

    await eventually(all_there)
    assert len(found) == len(sent), good
    assert DEAD_LETTERED.labels(QUEUE)._value.get() - counted == len(sent)


async def test_what_is_left_to_the_broker_is_dead_lettered(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published under a key that leads nowhere, they come back: as where the queue's binding is missing."""
    monkeypatch.setattr(billing.service._dead_letters, "_service", "nowhere")
    left = LEFT_TO_BROKER.labels(QUEUE)._value.get()
    sent = await flood(billing, 10)
    found = await billing.dead_letters(10)
    assert {message.message_id for message in found} == sent
    assert all(m.headers["x-first-death-reason"] == "rejected" for m in found)
    assert LEFT_TO_BROKER.labels(QUEUE)._value.get() - left == 10


async def test_good_events_do_not_wait_for_the_retries_of_failing_ones(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With these delays all failing ones together would hold the queue for longer than the test waits."""
    monkeypatch.setattr("chassis.messaging.retries.RETRY_DELAYS", (3.0, 3.0, 3.0))
    failing = [outbox_row(OrderPlaced(order=an_order(total="0.00"))) for _ in range(FLOOD)]
    await billing.receives(*failing)
    good = await billing.receives(*(OrderPlaced(order=an_order()) for _ in range(10)))
    await billing.has_processed(*good)
    found = await billing.dead_letters(FLOOD)
    assert {message.message_id for message in found} == {str(row.id) for row in failing}
    attempts = {message.headers.get("dead_letter_attempts") for message in found}
    assert attempts >= {1, 4}, "some were retried, and the others not"


@pytest.fixture
async def narrow(install_chorus: Install) -> AsyncIterator[RunningService]:
    """Billing, with a dead-letter queue that takes five messages."""
    installation = await install_chorus("narrow", "billing")
    broker = Broker(installation.amqp_admin_url)
    await broker.open()
    [dead] = [queue for queue in TOPOLOGY.queues if queue.name == DEAD_QUEUE]
    await broker.channel.queue_delete(DEAD_QUEUE)
    arguments = dead.arguments | {"x-max-length": 5}
    made = await broker.channel.declare_queue(DEAD_QUEUE, durable=True, arguments=arguments)
    for exchange in (DEAD, dead_letter_exchange("billing")):
        await made.bind(exchange, "billing")
    await broker.close()
    app = create_app("billing", description="", router=router, subscriptions=SUBSCRIPTIONS)
    async with RunningService("billing", app, installation).running() as billing:
        yield billing


async def test_a_full_dead_letter_queue_loses_nothing_and_good_events_go_on(
    narrow: RunningService,
) -> None:
    sent = await flood(narrow)
    await narrow.processes(*(OrderPlaced(order=an_order()) for _ in range(10)))
    api = Administration(narrow.installation.servers.rabbitmq_api_url)

    async def kept() -> None:
        """The broker keeps in the queue what does not fit."""
        dead = await narrow.broker.waiting(DEAD_QUEUE)
        path = f"queues/{narrow.installation.name}/{QUEUE}"
        queue = (await asyncio.to_thread(api.get, path)).json()
        assert 0 < dead < len(sent) / 2, dead
        held = queue.get("messages_dlx", 0) + queue.get("messages_unacknowledged", 0)
        assert dead + held == len(sent), queue

    with api:
        await eventually(kept)


async def test_concurrent_messages_share_one_connection(
    install_chorus: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    chorus = await install_chorus("sharing", "orders")
    opened = []
    real = aio_pika.connect

    async def connect(*arguments: Any, **options: Any) -> Any:
        opened.append(arguments)
        return await real(*arguments, **options)

    monkeypatch.setattr(aio_pika, "connect", connect)
    own = Publisher(chorus.amqp_url("orders"), "tests")
    queue = DeadLetterQueue("orders", own)
    messages = [aio_pika.Message(b"bad", message_id=str(number)) for number in range(8)]
    assert all(await asyncio.gather(*(queue.put([one], "a queue") for one in messages)))
    await own.close()
    assert len(opened) == 1
