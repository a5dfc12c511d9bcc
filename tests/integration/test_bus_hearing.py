"""A consumer that has ended while the connection stands: the service notices, says so, and hears again by itself."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import quote

import httpx
import pytest
from aio_pika.robust_queue import RobustQueue
from faststream.rabbit.subscriber import RabbitSubscriber
from structlog.testing import CapturingLogger

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.messaging.broker import _Channel, _Connection
from chassis.runtime.service import create_app
from events.orders import OrderPlaced
from events.users import UserRegistered
from ops.management import Administration
from ops.subscriptions import TOPOLOGY
from tests.support.builders import a_user, an_order
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.installation import Installation

UNKNOWN_DELIVERY: Final = 1_000_000


@pytest.fixture
async def billing(install_chorus: Install) -> AsyncIterator[RunningService]:
    installation = await install_chorus("hearing", "billing")
    app = create_app("billing", description="", router=router, subscriptions=SUBSCRIPTIONS)
    async with (
        RunningService("billing", app, installation).running() as running,
        running.listened_to(),
    ):
        yield running


async def may(billing: RunningService, rights: Mapping[str, str]) -> None:
    """An operator changes what the service may do on the broker."""
    made = billing.installation
    async with httpx.AsyncClient(base_url=made.servers.rabbitmq_api_url, trust_env=False) as api:
        path = (
            f"/api/permissions/{quote(made.name, safe='')}/{quote(made.login('billing'), safe='')}"
        )
        answer = await api.put(path, json=dict(rights))
        answer.raise_for_status()


async def channels_are_closed(billing: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker closes every channel of the service's consumers, and leaves their connection open.

    Returns once aio-pika has tried to open each of them again, the only time that it does.
    """
    tried, restore = [], _Channel.restore

    async def noted(channel: _Channel) -> None:
        try:
            await restore(channel)
        finally:
            tried.append(channel)

    monkeypatch.setattr(_Channel, "restore", noted)
    for subscriber in billing.service.broker.subscribers:
        assert isinstance(subscriber, RabbitSubscriber)
        assert subscriber._queue_obj is not None
        channel = await subscriber._queue_obj.channel.get_underlay_channel()
        await channel.basic_ack(UNKNOWN_DELIVERY)

    async def all_tried() -> None:
        assert len(tried) == len(billing.service.broker.subscribers)

    await eventually(all_tried)


async def test_a_consumer_that_could_not_be_restored_at_once_comes_back_and_disturbs_no_other(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.messaging.broker.LOOK_SECONDS", 0.1)
    rights, transport = TOPOLOGY.permissions("billing"), connection_of(billing).transport
    await billing.is_ready(200)
    await may(billing, rights | {"read": "^billing\\.user-.*$"})
    await channels_are_closed(billing, monkeypatch)
    await billing.is_ready(503)
    user = a_user()
    await billing.hears(UserRegistered(user=user))
    rows = await billing.receives(OrderPlaced(order=an_order(total="1.00", user=user)))
    await may(billing, rights)
    await billing.has_heard(*rows)
    await billing.is_ready(200)
    assert connection_of(billing).transport is transport


async def test_a_queue_that_is_deleted_is_not_heard_until_it_is_there_again(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = CapturingLogger()
    monkeypatch.setattr("chassis.messaging.broker.log", lines)
    monkeypatch.setattr("chassis.messaging.broker.LOOK_SECONDS", 0.1)
    await billing.is_ready(200)
    await billing.broker.channel.queue_delete("billing.order-placed")
    await billing.is_ready(503)

    async def noticed() -> None:
        assert lines.calls

    await eventually(noticed)
    assert {(line.method_name, line.args) for line in lines.calls} == {
        ("warning", ("consumer.stopped",))
    }
    await asyncio.to_thread(_migrate, billing.installation)
    await billing.is_ready(200)
    await billing.hears(OrderPlaced(order=an_order(total="1.00", user=a_user())))


def _migrate(made: Installation) -> None:
    with Administration(made.servers.rabbitmq_api_url) as broker:
        broker.apply(TOPOLOGY, {"billing": made.amqp_url("billing")})


def loses_the_connection_between_two_steps(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The next time that a queue is restored, the connection is lost in the middle of it; returns which it was."""
    monkeypatch.setattr("chassis.messaging.broker.RESTORE_SECONDS", 1.0)
    connection, restore = connection_of(billing), RobustQueue.restore
    lost: list[str] = []

    async def restore_a_queue(queue: RobustQueue) -> None:
        if not lost:
            lost.append(queue.name)
            await connection.begin_anew()
            assert not connection.connected.is_set()
        await restore(queue)

    monkeypatch.setattr(RobustQueue, "restore", restore_a_queue)
    return lost


async def test_a_connection_that_is_lost_between_two_steps_of_its_restoration_is_made_anew(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = loses_the_connection_between_two_steps(billing, monkeypatch)
    await connection_of(billing).begin_anew()
    rows = await billing.receives(OrderPlaced(order=an_order(total="1.00", user=a_user())))
    await billing.has_heard(*rows)
    assert lost


async def test_a_connection_that_is_lost_while_one_consumer_is_restored_is_made_anew(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = TOPOLOGY.permissions("billing")
    await may(billing, rights | {"read": "^billing\\.user-.*$"})
    await channels_are_closed(billing, monkeypatch)
    await billing.is_ready(503)
    await may(billing, rights)
    lost = loses_the_connection_between_two_steps(billing, monkeypatch)
    connection_of(billing)._request_recovery()  # as a queue does that is deleted
    rows = await billing.receives(OrderPlaced(order=an_order(total="1.00", user=a_user())))
    await billing.has_heard(*rows)
    assert lost


def connection_of(billing: RunningService) -> _Connection:
    connection = billing.service.broker._connection
    assert connection is not None
    return connection
