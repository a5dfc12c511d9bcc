"""Gauges that are measured in tables: outbox rows that wait for a retry, and orders that stay pending."""

from datetime import timedelta

import pytest
from aio_pika import Message
from prometheus_client import REGISTRY, Gauge
from uuid_utils.compat import uuid7

from apps.orders import late_orders
from chassis.messaging.topology import DEAD
from chassis.runtime import backlog as gauges
from tests.support.builders import a_user, now, payment_succeeded
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.opened import opened
from tests.support.shopping import place

TWO_MINUTES_LATE = "UPDATE orders SET placed_at = placed_at - interval '2 minutes' WHERE id = $1"
LOGGED = "INSERT INTO event_log VALUES ($1, 'orders', 'order-paid.v1', $2, 1, '{}')"


def figure(gauge: Gauge) -> float:
    value: float = gauge._value.get()
    return value


@pytest.mark.parametrize("outbox", gauges.COUNTS)
async def test_an_outbox_is_counted_with_the_age_of_its_oldest_event(
    install_chorus: Install, outbox: str
) -> None:
    rows, oldest = gauges.ROWS.labels(outbox), gauges.OLDEST.labels(outbox)
    async with opened(await install_chorus("backlog", "orders"), "orders") as (database, owner):
        await gauges.measure_outboxes(database.pool)
        assert (figure(rows), figure(oldest)) == (0, 0)
        id = uuid7()
        await owner.execute(LOGGED, id, now() - timedelta(hours=1))
        await owner.execute(f"INSERT INTO {outbox} (id) VALUES ($1)", id)
        await gauges.measure_outboxes(database.pool)
        assert figure(rows) == 1
        assert 3600 <= figure(oldest) < 7200
        await owner.execute(f"DELETE FROM {outbox}")


async def test_dead_letters_are_counted_with_the_services_own_login(
    orders: RunningService,
) -> None:
    def measured() -> float | None:
        return REGISTRY.get_sample_value("chorus_dead_letter_messages", {"queue": "orders.dead"})

    async def measured_by_the_service() -> None:
        assert measured() == 0

    async def two_are_seen() -> None:
        await gauges.measure_dead_letters(orders.service.broker, "orders")
        assert measured() == 2

    await eventually(measured_by_the_service)
    for _ in range(2):
        await orders.broker.send(Message(b"nobody has explained it"), DEAD, "orders")
    await eventually(two_are_seen)
    await orders.broker.purge("orders.dead")
    await gauges.measure_dead_letters(orders.service.broker, "orders")
    assert measured() == 0


async def test_an_order_that_stays_pending_is_late_until_it_settles(orders: RunningService) -> None:
    late = late_orders.LateOrders(orders.service.database.pool)
    await late.measure()
    before = figure(late_orders.LATE)
    young, old = await place(orders, a_user()), await place(orders, a_user())
    await orders.database.execute(TWO_MINUTES_LATE, old.id)
    await late.measure()
    assert figure(late_orders.LATE) == before + 1
    assert figure(late_orders.OLDEST) >= 120
    await orders.processes(payment_succeeded(old), payment_succeeded(young))
    await late.measure()
    assert figure(late_orders.LATE) == before
