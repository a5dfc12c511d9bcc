"""A consumer that stops while the connection is open: the service detects it, reports it, and restores it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import quote

import httpx
import pytest
from aio_pika.robust_queue import RobustQueue
from structlog.testing import CapturingLogger

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.messaging.private_names import RestoringChannel, RestoringConnection
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
    installation = await install_chorus("restores", "billing")
    app = create_app("billing", description="", router=router, subscriptions=SUBSCRIPTIONS)
    async with (
        RunningService("billing", app, installation).running() as running,
        running.observed(),
    ):
        yield running


async def set_permissions(billing: RunningService, rights: Mapping[str, str]) -> None:
    """Set the permissions of the service on the broker."""
    made = billing.installation
    async with httpx.AsyncClient(base_url=made.servers.rabbitmq_api_url, trust_env=False) as api:
        path = (
            f"/api/permissions/{quote(made.name, safe='')}/{quote(made.login('billing'), safe='')}"
        )
        answer = await api.put(path, json=dict(rights))
        answer.raise_for_status()


async def channels_are_closed(billing: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the broker close every channel of the service's consumers, and leave their connection open.

    Returns once aio-pika has tried to reopen each of them, which it does once.
    """
    tried, restore = [], RestoringChannel.restore

    async def noted(channel: RestoringChannel) -> None:
        try:
            await restore(channel)
        finally:
            tried.append(channel)

    monkeypatch.setattr(RestoringChannel, "restore", noted)
    channels = (await billing.service.broker.channels()).values()
    assert len({*channels}) == len(billing.service.broker.subscribers)
    for channel in channels:
        await (await channel.get_underlay_channel()).basic_ack(UNKNOWN_DELIVERY)

    async def all_tried() -> None:
        assert len(tried) == len(channels)

    await eventually(all_tried)


async def test_a_stopped_consumer_is_restored_without_disturbing_others(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.messaging.broker.CHECK_SECONDS", 0.1)
    rights, transport = TOPOLOGY.permissions("billing"), connection_of(billing).transport
    await billing.is_ready(200)
    await set_permissions(billing, rights | {"read": "^billing\\.user-.*$"})
    await channels_are_closed(billing, monkeypatch)
    await billing.is_ready(503)
    user = a_user()
    await billing.processes(UserRegistered(user=user))
    rows = await billing.receives(OrderPlaced(order=an_order(total="1.00", user=user)))
    await set_permissions(billing, rights)
    await billing.has_processed(*rows)
    await billing.is_ready(200)
    assert connection_of(billing).transport is transport


async def test_a_deleted_queue_is_consumed_again_once_it_exists(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = CapturingLogger()
    monkeypatch.setattr("chassis.messaging.broker.log", lines)
    monkeypatch.setattr("chassis.messaging.broker.CHECK_SECONDS", 0.1)
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
    await billing.processes(OrderPlaced(order=an_order(total="1.00", user=a_user())))


def _migrate(made: Installation) -> None:
    with Administration(made.servers.rabbitmq_api_url) as broker:
        broker.apply(TOPOLOGY, {"billing": made.amqp_url("billing")})


def loses_the_connection_between_two_steps(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Lose the connection while the next queue is restored; returns the queue."""
    monkeypatch.setattr("chassis.messaging.private_names.RESTORE_SECONDS", 1.0)
    connection, restore = connection_of(billing), RobustQueue.restore
    lost: list[str] = []

    async def restore_a_queue(queue: RobustQueue) -> None:
        if not lost:
            lost.append(queue.name)
            await connection.drop()
            assert not connection.connected.is_set()
        await restore(queue)

    monkeypatch.setattr(RobustQueue, "restore", restore_a_queue)
    return lost


async def test_a_connection_lost_during_its_restoration_is_replaced(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = loses_the_connection_between_two_steps(billing, monkeypatch)
    await connection_of(billing).drop()
    rows = await billing.receives(OrderPlaced(order=an_order(total="1.00", user=a_user())))
    await billing.has_processed(*rows)
    assert lost


async def test_a_connection_lost_while_a_consumer_is_restored_is_replaced(
    billing: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = TOPOLOGY.permissions("billing")
    await set_permissions(billing, rights | {"read": "^billing\\.user-.*$"})
    await channels_are_closed(billing, monkeypatch)
    await billing.is_ready(503)
    await set_permissions(billing, rights)
    lost = loses_the_connection_between_two_steps(billing, monkeypatch)
    connection_of(billing)._request_recovery()  # as when a queue is deleted
    rows = await billing.receives(OrderPlaced(order=an_order(total="1.00", user=a_user())))
    await billing.has_processed(*rows)
    assert lost


def connection_of(billing: RunningService) -> RestoringConnection:
    return billing.service.broker.latest_connection
