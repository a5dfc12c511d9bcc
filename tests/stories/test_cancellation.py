"""A cancelled order costs nothing: what was paid comes back, what is not paid yet never will be."""

import asyncio

from events.orders import OrderCancelled, OrderPlaced
from tests.stories.stack import Stack


async def test_a_cancelled_paid_order_is_refunded_and_notified(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    order_id = await ada.order("30.00")
    await ada.settled(order_id)
    assert await ada.balance() == "70.00"

    cancelled = await ada.cancel(order_id)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    notification = await ada.notified(order_id, "refund")
    assert notification["subject"] == "Your money is back: 30.00 EUR"
    assert await ada.balance() == "100.00"
    assert [mail.subject for mail in await ada.mail(2)] == [
        "Your order is paid: 30.00 EUR",
        "Your money is back: 30.00 EUR",
    ]
    await chorus.is_quiet()
    order = await ada.sees("orders", f"/order/{order_id}")
    assert order["status"] == "cancelled"
    assert order["refundedAt"] is not None


async def test_cancelling_again_gives_the_same_response_and_refunds_once(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    order_id = await ada.order("30.00")
    await ada.settled(order_id)
    first = await ada.cancel(order_id)
    second = await ada.cancel(order_id)
    await ada.notified(order_id, "refund")
    await chorus.is_quiet()
    third = await ada.cancel(order_id)
    # Meanwhile the order may have got its note about the refund, which is no change of its state.
    answers = [answer.json() | {"refundedAt": None} for answer in (first, second, third)]
    assert answers == [first.json()] * 3
    assert {answer.status_code for answer in (first, second, third)} == {200}
    assert third.json()["refundedAt"] is not None
    await chorus.is_quiet()
    assert await ada.balance() == "100.00"
    await ada.mail(2)


async def test_an_order_cancelled_while_pending_costs_nothing(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    assert await chorus["billing"].stop() == 0
    order_id = await ada.order("30.00")
    assert (await ada.sees("orders", f"/order/{order_id}"))["status"] == "pending"
    assert (await ada.cancel(order_id)).json()["status"] == "cancelled"
    assert (await ada.cancel(order_id)).json()["status"] == "cancelled"
    await chorus["billing"].start()
    await chorus.is_quiet()
    assert await ada.balance() == "100.00"
    assert (await ada.sees("orders", f"/order/{order_id}"))["status"] == "cancelled"


async def test_an_order_whose_cancellation_billing_processed_first_is_not_debited(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    async with chorus.broker.withheld(OrderPlaced, "billing"):
        order_id = await ada.order("30.00")
        assert (await ada.cancel(order_id)).status_code == 200
        await chorus.has_processed("billing", OrderCancelled, order_id)
    notification = await ada.notified(order_id, "sorrow")
    assert notification["subject"] == "Your order was cancelled and not charged: 30.00 EUR"
    assert await ada.balance() == "100.00"
    statement = await ada.sees("billing", f"/account/{ada.id}/transactions")
    assert [line["kind"] for line in statement["items"]] == ["deposit"]


async def test_a_rejected_order_cannot_be_cancelled(chorus: Stack) -> None:
    ada = await chorus.customer()
    order_id = await ada.order("30.00")
    await ada.settled(order_id)
    answer = await ada.cancel(order_id)
    assert (answer.status_code, answer.json()["reason"]) == (409, "order_rejected")
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_concurrent_cancellations_and_payments_leave_every_balance_unchanged(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")

    async def order_and_cancel() -> None:
        order_id = await ada.order("2.00")
        assert (await ada.cancel(order_id)).status_code == 200

    await asyncio.gather(*(order_and_cancel() for _ in range(50)))
    await chorus.is_quiet()
    assert await ada.balance() == "100.00"
    orders = await ada.sees("orders", "/order?status=cancelled&limit=200")
    assert len(orders["items"]) == 50
