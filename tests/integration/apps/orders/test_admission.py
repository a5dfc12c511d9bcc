"""Orders beyond the rate that can be settled are refused early, on a real database and a real broker."""

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from apps.orders.admission import ALWAYS_ADMITTED, Admission
from tests.support.builders import a_user, payment_succeeded
from tests.support.harness import RunningService
from tests.support.shopping import place

MANY = ALWAYS_ADMITTED + 20
LONG_AGO = "UPDATE orders SET placed_at = placed_at - interval '10 seconds' WHERE id = $1"


@pytest.fixture
def no_standstill(orders: RunningService, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ignore how slow the machine is; reset admission control before and after."""
    monkeypatch.setattr("apps.orders.admission.INTERRUPTED_SECONDS", 3600)
    admission = orders.provided(Admission)
    vars(admission).update(vars(Admission()))
    yield
    vars(admission).update(vars(Admission()))


@pytest.mark.usefixtures("no_standstill")
async def test_a_slow_flow_admits_as_many_orders_as_it_settles_in_time(
    orders: RunningService,
) -> None:
    await orders.processes(payment_succeeded(await place(orders, a_user())))
    late = await place(orders, a_user())
    await orders.database.execute(LONG_AGO, late.id)
    await orders.processes(payment_succeeded(late))
    user = a_user()
    statuses: Counter[int] = Counter()
    async with orders.http(user) as ada:

        async def order() -> None:
            answer = await ada.post("/order/create", json={"totalPrice": "1.00"})
            statuses[answer.status_code] += 1
            if answer.status_code == 503:
                assert answer.headers["Retry-After"] == "1"
                assert answer.json()["type"] == "urn:chorus:problem:unavailable"

        async with asyncio.TaskGroup() as together:
            for _ in range(MANY):
                together.create_task(order())
    placed = await orders.database.fetchval(
        "SELECT count(*) FROM orders WHERE user_id = $1", user.id
    )
    assert placed == ALWAYS_ADMITTED - 1  # the late order counts
    assert statuses == {201: placed, 503: MANY - placed}
