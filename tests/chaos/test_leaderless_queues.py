"""A queue that the broker has lost blocks its event; the runbook's steps replace it."""

import asyncio
from urllib.parse import quote

import pytest

from ops.management import Administration
from tests.chaos.slips import Slips
from tests.chaos.world import World, running_world
from tests.support.eventually import eventually
from tools.children import CannotRun
from tools.servers.install import install_missing

QUEUE = "notifications.payment-succeeded"


def declare_again(world: World) -> None:
    """Delete a queue, and declare it before the broker has unregistered the deleted one."""
    vhost = quote(world.installation.name)
    with Administration(world.installation.servers.rabbitmq_api_url) as broker:
        path = f"queues/{vhost}/{QUEUE}"
        declared = broker.get(path).raise_for_status().json()
        broker.delete(path).raise_for_status()
        body = {"durable": True, "auto_delete": False, "arguments": declared["arguments"]}
        broker.put(path, json=body).raise_for_status()


@pytest.mark.timeout(300)  # seconds: servers and eight processes start, beside other tests
async def test_a_queue_without_a_leader_is_named_and_replaced() -> None:
    try:
        install_missing("postgresql", "rabbitmq", "faketime")
    except CannotRun as missing:
        pytest.skip(f"a broker as a process is needed, to be killed: {missing}")
    async with running_world() as world:
        await asyncio.to_thread(declare_again, world)
        rabbitmq = world.private.rabbitmq
        rabbitmq.kill()
        rabbitmq.launch()
        await asyncio.to_thread(rabbitmq.wait)

        slips = Slips(world)
        leaderless = await slips.leaderless_queues()
        if not leaderless:
            pytest.skip("this version of RabbitMQ does not lose the queue")
        assert leaderless == [QUEUE]

        async def named() -> None:
            answer = await world.http("notifications").get("/ready")
            assert answer.status_code == 503
            assert QUEUE in answer.text

        await eventually(named, within=60)
        await slips.replace(leaderless)
        await world.is_healed()
