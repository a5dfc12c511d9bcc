"""Gauges that are measured in tables: outbox rows that wait for a retry, and orders that stay pending."""

from datetime import timedelta

from aio_pika import Message
from prometheus_client import REGISTRY

from apps.orders import late_orders
from chassis.messaging.topology import DEAD
from chassis.runtime import backlog as gauges
from tests.support.builders import a_user, now, payment_succeeded
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.shopping import place

TWO_MINUTES_LATE = "UPDATE orders SET placed_at = placed_at - interval '2 minutes' WHERE id = $1"
RESTING = """
WITH logged AS (
    INSERT INTO event_log VALUES (gen_random_uuid(), 'orders', 'order-paid.v1', $1, 1, '{}') RETURNING id
)
INSERT INTO outbox SELECT id, $2 FROM logged
"""


def figure(gauge: object) -> float:
    value: float = gauge._value.get()  # type: ignore[attr-defined]
    return value


async def test_the_outbox_is_counted_with_the_age_of_its_oldest_event(
    orders: RunningService,
) -> None:
    pool = orders.service.database.pool
    await gauges.measure_outbox(pool)
    assert (figure(gauges.ROWS), figure(gauges.OLDEST)) == (0, 0)
    moment = now()
    try:
        await orders.database.execute(
            RESTING, moment - timedelta(hours=1), moment + timedelta(hours=1)
        )
        await gauges.measure_outbox(pool)
        assert figure(gauges.ROWS) == 1
        assert 3600 <= figure(gauges.OLDEST) < 7200
    finally:
        await orders.database.execute("DELETE FROM outbox WHERE retry_at IS NOT NULL")


async def test_dead_letters_are_counted_with_the_services_own_login(
    orders: RunningService,
) -> None:
    def measured() -> float | None:
        return REGISTRY.get_sample_value("chorus_queue_messages", {"queue": "orders.dead"})

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
