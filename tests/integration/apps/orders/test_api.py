"""Placing, settling, cancelling and reading orders, on a real database and a real broker."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import UserRegistered, UserUpdated
from tests.support.builders import (
    a_user,
    cancelled,
    outbox_row,
    payment_refunded,
    payment_rejected,
    payment_succeeded,
)
from tests.support.harness import RunningService
from tests.support.shopping import cancel, place, view


async def test_a_new_order_is_pending_and_published(orders: RunningService) -> None:
    user = a_user()
    await orders.processes(UserRegistered(user=user))
    async with orders.http(user) as ada:
        answer = await ada.post("/order/create", json={"totalPrice": 150})
    created = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/order/{created['orderId']}"
    assert created == {
        "orderId": created["orderId"],
        "userId": str(user.id),
        "status": "pending",
        "totalPrice": "150.00",
        "currency": "EUR",
        "reason": None,
        "placedAt": created["placedAt"],
        "settledAt": None,
        "refundedAt": None,
        "version": 1,
    }
    assert UUID(created["orderId"]).version == 7
    [placed] = await orders.publishes(1)
    assert isinstance(placed, OrderPlaced)
    assert (str(placed.order.id), placed.order.total) == (created["orderId"], 150_00)


async def test_an_order_of_an_unknown_user_is_accepted(orders: RunningService) -> None:
    user = a_user()
    await place(orders, user)
    [placed] = orders.published_of(OrderPlaced)
    assert placed.order.user_id == user.id


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=str)
async def test_a_customer_is_stored_without_personal_data(
    orders: RunningService, order: tuple[int, ...]
) -> None:
    old = a_user(name="Ada Byron")
    new = old.model_copy(update={"name": "Ada Lovelace", "version": 2})
    events = {1: UserRegistered(user=old), 2: UserUpdated(user=new)}
    for version in order:
        await orders.processes(events[version])
    [customer] = await orders.rows("SELECT * FROM customers WHERE id = $1", old.id)
    assert dict(customer) == {"id": old.id, "version": 2}


# Outcomes.


async def test_a_payment_settles_the_order_as_paid(orders: RunningService) -> None:
    order = await place(orders, a_user())
    [received] = await orders.processes(payment_succeeded(order))
    _, paid = orders.published
    assert isinstance(paid, OrderPaid)
    assert paid.order == order.model_copy(update={"status": "paid", "version": 2})
    assert orders.tap.received[1].cause.causation_id == received.id
    seen = await view(orders, order)
    assert (seen["status"], seen["version"], seen["reason"]) == ("paid", 2, None)
    assert seen["settledAt"] is not None


async def test_a_rejected_payment_settles_the_order_with_the_reason(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_rejected(order))
    [rejected] = orders.published_of(OrderRejected)
    assert (rejected.order.status, rejected.order.reason) == ("rejected", "insufficient_funds")
    assert (await view(orders, order))["reason"] == "insufficient_funds"


async def test_an_outcome_delivered_twice_is_published_once(orders: RunningService) -> None:
    order = await place(orders, a_user())
    outcome = outbox_row(payment_succeeded(order))
    await orders.processes(outcome, outcome, payment_succeeded(order))
    assert len(orders.published_of(OrderPaid)) == 1
    assert (await view(orders, order))["version"] == 2


async def test_an_outcome_of_an_unknown_order_is_dead_lettered(
    orders: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.messaging.retries.RETRY_DELAYS", (0.01,))
    order = await place(orders, a_user())
    stray = outbox_row(payment_succeeded(order.model_copy(update={"id": uuid7()})))
    good = outbox_row(payment_succeeded(order))
    await orders.receives(stray, good, as_batch=True)
    [dead_letter] = await orders.dead_letters(1)
    await orders.has_processed(good)
    assert dead_letter.message_id == str(stray.id)
    assert (await view(orders, order))["status"] == "paid"


# Cancelling.


async def test_a_pending_order_is_cancelled_and_a_repetition_gets_the_same_response(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    first, again = await cancel(orders, order), await cancel(orders, order)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.json()["status"] == "cancelled"
    await orders.is_quiet()
    [published] = orders.published_of(OrderCancelled)
    assert published.order == cancelled(order)


async def test_a_paid_order_is_cancelled_and_its_refund_is_recorded(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_succeeded(order))
    answer = await cancel(orders, order)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["refundedAt"] is None
    await orders.is_quiet()
    [published] = orders.published_of(OrderCancelled)
    assert published.order.version == 3
    refund = payment_refunded(published.order)
    await orders.processes(refund, refund)
    seen = await view(orders, order)
    assert seen["status"] == "cancelled"
    assert seen["refundedAt"] is not None
    assert seen["version"] == 3


async def test_a_rejected_order_cannot_be_cancelled(orders: RunningService) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_rejected(order))
    answer = await cancel(orders, order)
    assert answer.status_code == 409
    assert answer.json()["reason"] == "order_rejected"
    assert orders.published_of(OrderCancelled) == []
    assert (await view(orders, order))["status"] == "rejected"


@pytest.mark.parametrize("outcome", [payment_succeeded, payment_rejected])
async def test_an_outcome_after_the_cancellation_leaves_the_order_cancelled(
    orders: RunningService, outcome: Any
) -> None:
    order = await place(orders, a_user())
    await cancel(orders, order)
    await orders.processes(outcome(order))
    assert [type(event) for event in orders.published] == [OrderPlaced, OrderCancelled]
    seen = await view(orders, order)
    assert (seen["status"], seen["version"], seen["reason"]) == ("cancelled", 2, None)


async def test_a_concurrent_cancellation_and_payment_end_cancelled_and_published_once(
    orders: RunningService,
) -> None:
    placed = [await place(orders, a_user()) for _ in range(10)]
    await asyncio.gather(
        *(cancel(orders, order) for order in placed),
        *(cancel(orders, order) for order in placed),
        orders.processes(*(payment_succeeded(order) for order in placed)),
    )
    await orders.is_quiet()
    assert {(await view(orders, order))["status"] for order in placed} == {"cancelled"}
    assert len(orders.published_of(OrderCancelled)) == 10


# Reading.


async def test_orders_are_paged_newest_first(orders: RunningService) -> None:
    user = a_user()
    placed = [await place(orders, user, f"{n}.00") for n in range(1, 6)]
    async with orders.http(user) as ada:
        pages, cursor = [], None
        while True:
            query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = (await ada.get("/order", params=query)).json()
            pages.append([item["orderId"] for item in page["items"]])
            if (cursor := page["nextCursor"]) is None:
                break
            await place(orders, user)  # does not shift the page
    newest_first = [str(order.id) for order in reversed(placed)]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]


async def test_orders_are_listed_by_status(orders: RunningService) -> None:
    user = a_user()
    placed = [await place(orders, user) for _ in range(4)]
    await orders.processes(payment_succeeded(placed[0]), payment_rejected(placed[1]))
    await cancel(orders, placed[2])
    async with orders.http(user) as ada:
        for status, order in zip(("paid", "rejected", "cancelled", "pending"), placed, strict=True):
            page = (await ada.get("/order", params={"status": status})).json()
            assert [item["orderId"] for item in page["items"]] == [str(order.id)]
            assert {item["status"] for item in page["items"]} == {status}


async def test_an_operator_sees_and_cancels_every_order(orders: RunningService) -> None:
    placed = [await place(orders, a_user()) for _ in range(2)]
    async with orders.as_operator() as operator:
        listed = (await operator.get("/order", params={"limit": 2})).json()["items"]
        seen = await operator.get(f"/order/{placed[0].id}")
        gone = await operator.post(f"/order/{placed[1].id}/cancel")
    assert [item["orderId"] for item in listed] == [str(o.id) for o in reversed(placed)]
    assert seen.json()["userId"] == str(placed[0].user_id)
    assert (gone.status_code, gone.json()["status"]) == (200, "cancelled")
