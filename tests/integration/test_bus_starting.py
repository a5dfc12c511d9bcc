"""A connection that is lost while a service starts: it tries again, and hears all its queues afterwards, once each."""

import asyncio
from collections.abc import Iterator

import pytest
import stamina

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
    """What is tried again is tried again without a pause."""
    with stamina.set_testing(True, attempts=1_000):
        yield


async def test_a_service_starts_whenever_its_connection_is_lost_meanwhile(
    install_chorus: Install,
) -> None:
    installation = await install_chorus("starting", "billing")
    url = installation.amqp_url("billing")
    replies, others = 0, connections_that_restore_themselves()
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
                await hears_each_queue_once(billing)
                ours = connections_that_restore_themselves() - others
                assert (ours, proxy.connections) == (1, 1), f"lost after {replies} replies"
    assert replies > len(SUBSCRIPTIONS)


async def hears_each_queue_once(billing: RunningService) -> None:
    async def by_one() -> None:
        for kind in (one.event for one in SUBSCRIPTIONS):
            name = queue_name("billing", kind)
            found = await billing.broker.channel.declare_queue(name, passive=True)
            assert found.declaration_result.consumer_count == 1, name

    await eventually(by_one)
    for subscriber in billing.service.broker.subscribers:
        channel = subscriber._queue_obj.channel  # type: ignore[attr-defined]
        assert channel._prefetch_count == PREFETCH_MESSAGES


def connections_that_restore_themselves() -> int:
    """How many aio-pika looks after in this process, in which services of other tests may run as well."""
    return sum("__connection_factory" in repr(task.get_coro()) for task in asyncio.all_tasks())
