"""A service that can no longer publish, dead-letter, or run its tasks is not ready, and says so until it can again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aio_pika
import pytest

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.messaging import errors
from chassis.messaging.topology import Topology, dead_letter_exchange
from chassis.runtime.service import create_app
from chassis.runtime.supervisor import Supervisor, expect_progress
from events.orders import OrderPlaced
from ops.management import Administration
from ops.subscriptions import TOPOLOGY
from tests.support.builders import a_user
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService


@pytest.fixture(scope="module")
async def running(install_chorus: Install) -> AsyncIterator[RunningService]:
    app = create_app("billing", description="", router=router, subscriptions=SUBSCRIPTIONS)
    service = RunningService("billing", app, await install_chorus("readiness", "billing"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors, "LASTING_SECONDS", 1.0, raising=False)
        async with service.running():
            yield service


async def publish_something(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        answer = await ada.post(f"/account/{user.id}/deposit", json={"amount": 1})
        assert answer.status_code == 201


async def receive_something_malformed(billing: RunningService) -> None:
    message = aio_pika.Message(b"malformed", content_type="application/json")
    await billing.broker.send(message, OrderPlaced.exchange, OrderPlaced.key)


async def faults(billing: RunningService) -> tuple[dict[str, bool], str]:
    async with billing.http() as anonymous:
        answer = (await anonymous.get("/ready")).json()
    return answer["checks"], answer.get("detail", "")


Work = Callable[[RunningService], Awaitable[None]]


@pytest.mark.parametrize(
    ("check", "exchange", "work"),
    [
        ("publishing", "billing", publish_something),
        ("dead_lettering", dead_letter_exchange("billing"), receive_something_malformed),
    ],
)
async def test_a_service_whose_messages_are_never_confirmed_is_not_ready(
    running: RunningService, check: str, exchange: str, work: Work
) -> None:
    api = running.installation.servers.rabbitmq_api_url
    users = {"billing": running.installation.amqp_url("billing")}

    def administrate(do: Callable[[Administration], Any]) -> Any:
        with Administration(api) as broker:
            return do(broker)

    path = f"exchanges/{running.installation.name}/{exchange}"
    await asyncio.to_thread(administrate, lambda broker: broker.delete(path))
    await work(running)

    async def named() -> None:
        checks, detail = await faults(running)
        assert [name for name, works in checks.items() if not works] == [check]
        assert detail.startswith(f"{check}: ")

    await eventually(named)
    wanted = Topology(TOPOLOGY.exchanges, TOPOLOGY.queues)
    await asyncio.to_thread(administrate, lambda broker: broker.apply(wanted, users))
    await running.is_ready(200)
    await running.is_quiet()
    if check == "dead_lettering":
        await running.dead_letters(1)


class TestSupervisor:
    async def test_a_task_that_is_stuck_is_named_until_it_goes_on(self) -> None:
        supervisor, stuck, goes_on = Supervisor(), asyncio.Event(), asyncio.Event()

        async def work() -> None:
            expect_progress(within=0.0)
            stuck.set()
            await goes_on.wait()
            expect_progress(within=3600.0)
            goes_on.clear()
            await asyncio.Event().wait()

        supervisor.start("poll", work())
        await stuck.wait()
        assert await supervisor.fault() == "poll"
        goes_on.set()

        async def going_on() -> None:
            assert not await supervisor.fault()

        await eventually(going_on)
        await supervisor.stop()
        assert await supervisor.fault() == "poll"
