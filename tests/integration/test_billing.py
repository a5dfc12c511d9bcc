"""What billing promises, on a real database and a real broker."""

from events.billing import PaymentSucceeded
from events.orders import OrderPlaced
from tests.support.builders import a_user, an_order, told
from tests.support.harness import RunningService


async def test_a_redelivered_order_is_charged_once(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        answer = await ada.post(f"/account/{user.id}/deposit", json={"amount": 100})
    assert answer.status_code == 201, answer.text
    placed = told(OrderPlaced(order=an_order(total="30.00", user=user)))
    await billing.hears(placed, placed)
    assert len(billing.said_of(PaymentSucceeded)) == 1
