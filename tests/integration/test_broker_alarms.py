"""The broker's memory or disk is short: orders are taken and told of later, and what waits in queues is heard."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
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
from tests.support.builders import a_user, an_order, told
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.installation import Installation, install
from tests.support.processes import Processes
from tests.support.servers import Servers
from tools.children import CannotRun
from tools.servers import PrivateRabbitMQ, private_rabbitmq

ORDERS = 3
MANY = 100
"""Far more than a consumer gets before it has acknowledged any."""


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[PrivateRabbitMQ]:
    """A broker of our own: alarms are about all who are connected."""
    try:
        with private_rabbitmq() as made:
            yield made
    except CannotRun as missing:
        pytest.skip(f"RabbitMQ as a process is needed: {missing}")


@pytest.fixture(scope="module")
async def installation(servers: Servers, rabbitmq: PrivateRabbitMQ, worker: str) -> Installation:
    own = replace(
        servers, rabbitmq_api_url=rabbitmq.api_url, amqp_host="127.0.0.1", amqp_port=rabbitmq.port
    )
    return await install(own, f"alarms_{worker}", ("orders", "billing"))


@pytest.fixture(scope="module")
async def running(installation: Installation) -> AsyncIterator[RunningService]:
    app = create_app(
        "orders", description="", router=router, subscriptions=SUBSCRIPTIONS, compose=compose
    )
    async with RunningService("orders", app, installation).running() as orders:
        yield orders


@pytest.fixture
async def orders_here(running: RunningService) -> AsyncIterator[RunningService]:
    async with running.listened_to():
        yield running


@pytest.mark.parametrize("kind", ALARMS)
async def test_orders_are_taken_under_an_alarm_of_the_broker_and_told_once_it_ends(
    orders_here: RunningService,
    rabbitmq: PrivateRabbitMQ,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 0.5)
    failed = FAILED.labels("TimeoutError")._value
    before = failed.get()
    async with alarm(rabbitmq, kind):
        async with orders_here.http(a_user()) as ada:
            for _ in range(ORDERS):
                answer = await ada.post("/order/create", json={"totalPrice": "1.00"})
                assert answer.status_code == 201, answer.text

        async def tried_in_vain() -> bool:
            return bool(failed.get() > before)

        await eventually(tried_in_vain)
        assert await orders_here.value("SELECT count(*) FROM outbox") == ORDERS
    await orders_here.is_quiet()
    assert len({event.order.id for event in orders_here.said_of(OrderPlaced)}) == ORDERS


async def test_events_are_heard_under_an_alarm_of_the_broker(
    installation: Installation, rabbitmq: PrivateRabbitMQ, processes: Processes
) -> None:
    """Whoever publishes and listens over one connection hears nothing more once it is blocked."""
    rows = [told(OrderPlaced(order=an_order(total="1.00", user=a_user()))) for _ in range(MANY)]
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
            outcomes = "SELECT count(*) FROM outbox WHERE routing_key = 'payment-rejected.v1'"
            assert await database.fetchval(outcomes) >= MANY
    finally:
        await database.close()
        await broker.close()
