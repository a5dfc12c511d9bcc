"""A connection that is lost while a service starts: it retries, and then has one consumer for each queue."""

import asyncio
from collections.abc import Iterator

import pytest
import stamina
from aio_pika import RobustChannel

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.messaging.consumer import PREFETCH_MESSAGES
from chassis.messaging.topology import queue_name
from chassis.runtime.service import create_app
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.proxy import Proxy


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """Retry without a delay."""
    with stamina.set_testing(True, attempts=1_000):
        yield


async def test_a_service_starts_although_its_connection_is_lost_at_any_step(
    install_chorus: Install,
) -> None:
    installation = await install_chorus("starting", "billing")
    url = installation.amqp_url("billing")
    replies, others = 0, restoring_connections()
    async with Proxy.before(url) as proxy:
        while True:
            replies += 1
            proxy.cut_after(replies)
            app = create_app("billing", description="", router=router, subscriptions=SUBSCRIPTIONS)
            billing = RunningService("billing", app, installation)
            async with billing.running({"CHORUS_AMQP_URL_BILLING": proxy.url(url)}):
                if not proxy.is_cut:
                    break
                await billing.is_ready(200)
                await has_one_consumer_per_queue(billing)
                ours = restoring_connections() - others
                assert (ours, proxy.connections) == (1, 1), f"lost after {replies} replies"
    assert replies > len(SUBSCRIPTIONS)


async def has_one_consumer_per_queue(billing: RunningService) -> None:
    async def by_one() -> None:
        for kind in (one.event for one in SUBSCRIPTIONS):
            name = queue_name("billing", kind)
            found = await billing.broker.channel.declare_queue(name, passive=True)
            assert found.declaration_result.consumer_count == 1, name

    await eventually(by_one)
    for channel in (await billing.service.broker.channels()).values():
        assert isinstance(channel, RobustChannel)
        assert channel._prefetch_count == PREFETCH_MESSAGES


def restoring_connections() -> int:
    """How many connections aio-pika restores in this process; services of other tests may run in it too."""
    return sum("__connection_factory" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_a_service_restores_no_connection_that_is_lost_while_it_stops(
    install_chorus: Install,
) -> None:
    """aio-pika swallows the cancellation of a connection that was not closed, so the process would never end."""
    installation = await install_chorus("broker_start", "billing")
    url = installation.amqp_url("billing")
    replies, others = 0, restoring_connections()
    async with Proxy.before(url) as proxy:
        while True:
            replies += 1
            app = create_app("billing", description="", router=router, subscriptions=SUBSCRIPTIONS)
            billing = RunningService("billing", app, installation)
            async with billing.running({"CHORUS_AMQP_URL_BILLING": proxy.url(url)}):
                await billing.is_ready(200)
                proxy.cut_after(replies)
            assert restoring_connections() == others, f"lost after {replies} replies"
            if not proxy.is_cut:
                break
    assert replies > 2
