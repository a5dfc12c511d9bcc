"""A connection that is lost while a service starts: it tries again, and hears all its queues afterwards, once each."""

from collections.abc import Iterator

import pytest
import stamina

from apps.billing.api import router
from apps.billing.subscribers import inbox
from apps.common.factory import create_app
from events.bus.topology import queue_name
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.proxy import Proxy

REPLIES_BY_QUEUE = 4
"""A channel that opens, its prefetch count, a queue that is there, a consumer."""


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
    replies = 0
    async with Proxy.before(url) as proxy:
        while True:
            proxy.cut_after(replies)
            app = create_app("billing", description="", router=router, inbox=inbox)
            billing = RunningService("billing", app, installation)
            async with billing.running({"CHORUS_AMQP_URL_BILLING": proxy.url(url)}):
                if not proxy.is_cut:
                    break
                await billing.is_ready(200)
                await hears_each_queue_once(billing)
                assert proxy.connections == 1, f"lost after {replies} replies"
            replies += 1
    assert replies > REPLIES_BY_QUEUE * len(inbox.subscribers)


async def hears_each_queue_once(billing: RunningService) -> None:
    async def by_one() -> None:
        for kind in inbox.subscribers:
            name = queue_name("billing", kind)
            found = await billing.broker.channel.declare_queue(name, passive=True)
            assert found.declaration_result.consumer_count == 1, name

    await eventually(by_one)
