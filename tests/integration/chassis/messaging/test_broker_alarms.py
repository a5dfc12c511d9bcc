"""The broker has a memory or disk alarm: orders are accepted and published later, and queues are consumed."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from apps.orders.api import router
from apps.orders.consumers import SUBSCRIPTIONS
from apps.orders.main import compose
from chassis.messaging import publisher
from chassis.messaging.relay import FAILED
from chassis.runtime.service import create_app
from events.orders import OrderPlaced
from tests.support.alarms import ALARMS, alarm
from tests.support.broker import Broker
from tests.support.builders import a_user, an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.installation import Installation, install
from tests.support.processes import Processes
from tests.support.servers import Servers
from tools.servers import PrivateRabbitMQ

ORDERS = 3
MANY = 100
"""Far more than the prefetch limit of a consumer."""


@pytest.fixture(scope="module")
async def installation(own_broker: Servers, worker: str) -> Installation:
    return await install(own_broker, f"alarms_{worker}", ("orders", "billing"))


@pytest.fixture(scope="module")
async def running(installation: Installation) -> AsyncIterator[RunningService]:
    app = create_app(
        "orders", description="", router=router, subscriptions=SUBSCRIPTIONS, compose=compose
    )
    async with RunningService("orders", app, installation).running() as orders:
        yield orders


@pytest.fixture
async def orders_here(running: RunningService) -> AsyncIterator[RunningService]:
    async with running.observed():
        yield running


@pytest.mark.parametrize("kind", ALARMS)
async def test_orders_are_accepted_under_an_alarm_and_published_after_it(
    orders_here: RunningService,
    rabbitmq: PrivateRabbitMQ,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 0.5)
    failed = FAILED.labels("outbox", "timeout")._value
    before = failed.get()
    async with alarm(rabbitmq, kind):
        async with orders_here.http(a_user()) as ada:
            for _ in range(ORDERS):
                answer = await ada.post("/order/create", json={"totalPrice": "1.00"})
                assert answer.status_code == 201, answer.text

        async def failed_to_publish() -> bool:
            return bool(failed.get() > before)

        await eventually(failed_to_publish)
        assert await orders_here.value("SELECT count(*) FROM outbox") == ORDERS
    await orders_here.is_quiet()
    assert len({event.order.id for event in orders_here.published_of(OrderPlaced)}) == ORDERS


async def test_events_are_consumed_under_an_alarm(
    installation: Installation, rabbitmq: PrivateRabbitMQ, processes: Processes
) -> None:
    """A connection shared with publishers would be blocked, and stop consuming."""
    rows = [
        outbox_row(OrderPlaced(order=an_order(total="1.00", user=a_user()))) for _ in range(MANY)
    ]
    broker = Broker(installation.amqp_admin_url)
    await broker.open()
    await broker.publish(*rows)
    orders = [UUID(row.attributes["subject"]) for row in rows]
    database = await asyncpg.connect(installation.database_admin_url("billing"))
    try:
        async with alarm(rabbitmq, "memory"):
            await processes.start(installation, "billing")

            async def decided() -> None:
                count = "SELECT count(*) FROM charges WHERE order_id = ANY($1)"
                assert await database.fetchval(count, orders) == MANY

            await eventually(decided)
            outcomes = (
                "SELECT coalesce(sum(events), 0) FROM outbox JOIN event_log USING (id)"
                " WHERE routing_key = 'payment-rejected.v1'"
            )
            assert await database.fetchval(outcomes) >= MANY
    finally:
        await database.close()
        await broker.close()
