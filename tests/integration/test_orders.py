"""What orders promises, on a real database and a real broker."""

import asyncio
import json
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from apps.orders.watch import changes
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected, OrderState
from events.users import UserRegistered, UserState, UserUpdated
from tests.support.builders import (
    a_user,
    cancelled,
    payment_refunded,
    payment_rejected,
    payment_succeeded,
    told,
)
from tests.support.eventually import eventually
from tests.support.harness import RunningService


async def place(
    orders: RunningService, user: UserState, total: str = "30.00", **headers: str
) -> OrderState:
    """An order that a user has placed, as OrderPlaced tells of it."""
    async with orders.http(user) as ada:
        answer = await ada.post("/order/create", json={"totalPrice": total}, headers=headers)
    assert answer.status_code == 201, answer.text
    await orders.is_quiet()
    id = UUID(answer.json()["orderId"])
    [placed] = [event for event in orders.said_of(OrderPlaced) if event.order.id == id]
    return placed.order


async def view(orders: RunningService, order: OrderState) -> dict[str, Any]:
    async with orders.http(order.user_id) as ada:
        answer = await ada.get(f"/order/{order.id}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def cancel(orders: RunningService, order: OrderState) -> httpx.Response:
    async with orders.http(order.user_id) as ada:
        return await ada.post(f"/order/{order.id}/cancel")


# Placing.


async def test_a_new_order_is_pending_and_told_at_once(orders: RunningService) -> None:
    user = a_user()
    await orders.hears(UserRegistered(user=user))
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
    [placed] = await orders.says(1)
    assert isinstance(placed, OrderPlaced)
    assert placed.customer == user
    assert (str(placed.order.id), placed.order.total) == (created["orderId"], 150_00)


async def test_an_order_of_a_user_not_heard_of_is_accepted(orders: RunningService) -> None:
    await place(orders, a_user())
    [placed] = orders.said_of(OrderPlaced)
    assert placed.customer is None


@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=str)
async def test_an_order_carries_its_customer_as_he_is_now(
    orders: RunningService, order: tuple[int, ...]
) -> None:
    old = a_user(name="Ada Byron")
    new = old.model_copy(update={"name": "Ada Lovelace", "version": 2})
    events = {1: UserRegistered(user=old), 2: UserUpdated(user=new)}
    for version in order:
        await orders.hears(events[version])
    await place(orders, old)
    [placed] = orders.said_of(OrderPlaced)
    assert placed.customer == new


# Outcomes.


async def test_an_order_that_billing_has_debited_is_paid(orders: RunningService) -> None:
    order = await place(orders, a_user())
    [heard] = await orders.hears(payment_succeeded(order))
    _, paid = orders.said
    assert isinstance(paid, OrderPaid)
    assert paid.order == order.model_copy(update={"status": "paid", "version": 2})
    assert orders.tap.heard[1].cause.causation_id == heard.id
    seen = await view(orders, order)
    assert (seen["status"], seen["version"], seen["reason"]) == ("paid", 2, None)
    assert seen["settledAt"] is not None


async def test_an_order_that_billing_has_refused_is_rejected_with_the_reason(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    await orders.hears(payment_rejected(order))
    [rejected] = orders.said_of(OrderRejected)
    assert (rejected.order.status, rejected.order.reason) == ("rejected", "insufficient_funds")
    assert (await view(orders, order))["reason"] == "insufficient_funds"


async def test_an_outcome_that_comes_twice_is_told_once(orders: RunningService) -> None:
    order = await place(orders, a_user())
    outcome = told(payment_succeeded(order))
    await orders.hears(outcome, outcome, payment_succeeded(order))
    assert len(orders.said_of(OrderPaid)) == 1
    assert (await view(orders, order))["version"] == 2


async def test_an_outcome_of_an_order_that_was_never_placed_is_parked(
    orders: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("events.bus.inbox.ATTEMPT_DELAYS", (0.01,))
    order = await place(orders, a_user())
    stray = told(payment_succeeded(order.model_copy(update={"id": uuid7()})))
    good = told(payment_succeeded(order))
    await orders.receives(stray, good, as_pack=True)
    [parked] = await orders.parks(1)
    await orders.has_heard(good)
    assert parked.message_id == str(stray.id)
    assert (await view(orders, order))["status"] == "paid"


# Cancelling.


async def test_a_pending_order_can_be_cancelled_and_again_gives_the_same_answer(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    first, again = await cancel(orders, order), await cancel(orders, order)
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert first.json()["status"] == "cancelled"
    await orders.is_quiet()
    [told_of] = orders.said_of(OrderCancelled)
    assert told_of.order == cancelled(order)


async def test_a_paid_order_can_be_cancelled_and_its_refund_is_noted(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    await orders.hears(payment_succeeded(order))
    answer = await cancel(orders, order)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["refundedAt"] is None
    await orders.is_quiet()
    [told_of] = orders.said_of(OrderCancelled)
    assert told_of.order.version == 3
    refund = payment_refunded(told_of.order)
    await orders.hears(refund, refund)
    seen = await view(orders, order)
    assert seen["status"] == "cancelled"
    assert seen["refundedAt"] is not None
    assert seen["version"] == 3


async def test_a_rejected_order_cannot_be_cancelled(orders: RunningService) -> None:
    order = await place(orders, a_user())
    await orders.hears(payment_rejected(order))
    answer = await cancel(orders, order)
    assert answer.status_code == 409
    assert answer.json()["reason"] == "order_rejected"
    assert orders.said_of(OrderCancelled) == []
    assert (await view(orders, order))["status"] == "rejected"


@pytest.mark.parametrize("outcome", [payment_succeeded, payment_rejected])
async def test_an_outcome_that_comes_after_the_cancellation_leaves_the_order_cancelled(
    orders: RunningService, outcome: Any
) -> None:
    order = await place(orders, a_user())
    await cancel(orders, order)
    await orders.hears(outcome(order))
    assert [type(event) for event in orders.said] == [OrderPlaced, OrderCancelled]
    seen = await view(orders, order)
    assert (seen["status"], seen["version"], seen["reason"]) == ("cancelled", 2, None)


async def test_cancellation_and_payment_that_race_end_cancelled_and_told_once(
    orders: RunningService,
) -> None:
    placed = [await place(orders, a_user()) for _ in range(10)]
    await asyncio.gather(
        *(cancel(orders, order) for order in placed),
        *(cancel(orders, order) for order in placed),
        orders.hears(*(payment_succeeded(order) for order in placed)),
    )
    await orders.is_quiet()
    assert {(await view(orders, order))["status"] for order in placed} == {"cancelled"}
    assert len(orders.said_of(OrderCancelled)) == 10


# Waiting for the outcome.


async def wait_for(
    orders: RunningService, user: UserState, prefer: str, outcome: Any = None
) -> httpx.Response:
    """Place an order that waits; `outcome` is heard meanwhile."""
    async with orders.http(user) as ada:
        waiting = asyncio.create_task(
            ada.post("/order/create", json={"totalPrice": "30.00"}, headers={"Prefer": prefer})
        )
        if outcome is not None:
            [placed] = await orders.says(1)
            assert isinstance(placed, OrderPlaced)
            assert not waiting.done()
            await orders.hears(outcome(placed.order))
        return await waiting


async def test_who_waits_is_answered_once_the_order_is_paid(orders: RunningService) -> None:
    answer = await wait_for(orders, a_user(), "wait=20", payment_succeeded)
    assert (answer.status_code, answer.json()["status"]) == (201, "paid")
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.headers["Location"] == f"/order/{answer.json()['orderId']}"


async def test_who_waits_is_told_why_the_order_is_rejected(orders: RunningService) -> None:
    answer = await wait_for(orders, a_user(), "wait=20", payment_rejected)
    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Preference-Applied"] == "wait=20"
    [rejected] = orders.said_of(OrderRejected)
    assert answer.json()["orderId"] == str(rejected.order.id)
    assert answer.json()["reason"] == "insufficient_funds"


async def test_who_waits_in_vain_is_told_that_the_order_is_accepted(
    orders: RunningService,
) -> None:
    answer = await wait_for(orders, a_user(), "wait=1")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert answer.headers["Preference-Applied"] == "wait=1"


async def test_nobody_waits_longer_than_half_a_minute(
    orders: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.orders.api.WAIT_LIMIT_SECONDS", 1)
    answer = await wait_for(orders, a_user(), "wait=999999")
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["respond-async", "wait=", "wait=-1", "wait=soon", "await=5"])
async def test_a_preference_that_is_not_known_is_ignored(
    orders: RunningService, prefer: str
) -> None:
    answer = await wait_for(orders, a_user(), prefer)
    assert (answer.status_code, answer.json()["status"]) == (201, "pending")
    assert "Preference-Applied" not in answer.headers


async def test_who_waits_hears_of_a_cancellation(orders: RunningService) -> None:
    user = a_user()
    async with orders.http(user) as ada:
        body, headers = {"totalPrice": 1}, {"Prefer": "respond-async, wait=20"}
        waiting = asyncio.create_task(ada.post("/order/create", json=body, headers=headers))
        [placed] = await orders.says(1)
        assert isinstance(placed, OrderPlaced)
        await cancel(orders, placed.order)
        answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (201, "cancelled")


# Following.


def sent(stream: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The events of a stream: name, id, data. Comments are left out."""
    found = []
    for block in stream.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


async def test_a_follower_sees_the_order_then_its_change_and_the_stream_ends(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    async with orders.http(order.user_id) as ada:
        following = asyncio.create_task(ada.get(f"/order/{order.id}/events"))

        async def subscribed() -> bool:
            return order.id in changes._waiting

        await eventually(subscribed)
        await orders.hears(payment_succeeded(order))
        answer = await following
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = sent(answer.text)
    assert [(name, id) for name, id, _ in events] == [("pending", "1"), ("paid", "2")]
    assert events[-1][2] == await view(orders, order)


async def test_the_stream_of_a_settled_order_ends_at_once(orders: RunningService) -> None:
    order = await place(orders, a_user())
    await orders.hears(payment_rejected(order))
    async with orders.http(order.user_id) as ada:
        answer = await ada.get(f"/order/{order.id}/events")
    assert [name for name, _, _ in sent(answer.text)] == ["rejected"]


async def test_nobody_follows_another_persons_order(orders: RunningService) -> None:
    order = await place(orders, a_user())
    async with orders.http(a_user()) as bob:
        foreign = await bob.get(f"/order/{order.id}/events")
        missing = await bob.get(f"/order/{uuid7()}/events")
    assert foreign.status_code == missing.status_code == 404
    assert foreign.headers["Content-Type"] == "application/problem+json"


# Reading.


async def test_orders_are_listed_page_by_page_newest_first(orders: RunningService) -> None:
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
            await place(orders, user)  # shifts nothing
    newest_first = [str(order.id) for order in reversed(placed)]
    assert pages == [newest_first[:2], newest_first[2:4], newest_first[4:]]


async def test_orders_are_listed_by_status(orders: RunningService) -> None:
    user = a_user()
    placed = [await place(orders, user) for _ in range(4)]
    await orders.hears(payment_succeeded(placed[0]), payment_rejected(placed[1]))
    await cancel(orders, placed[2])
    async with orders.http(user) as ada:
        for status, order in zip(("paid", "rejected", "cancelled", "pending"), placed, strict=True):
            page = (await ada.get("/order", params={"status": status})).json()
            assert [item["orderId"] for item in page["items"]] == [str(order.id)]
            assert {item["status"] for item in page["items"]} == {status}


async def test_another_persons_order_answers_like_one_that_is_not_there(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    async with orders.http(a_user()) as bob:
        answers = [
            (await bob.get(f"/order/{id}"), await bob.post(f"/order/{id}/cancel"))
            for id in (order.id, uuid7())
        ]
        listed = (await bob.get("/order")).json()
    for answer in (answer for pair in answers for answer in pair):
        assert answer.status_code == 404
        assert answer.json()["reason"] == "not_found"
    foreign, missing = ([{**a.json(), "instance": ""} for a in pair] for pair in answers)
    assert foreign == missing
    assert listed == {"items": [], "nextCursor": None}
    assert (await view(orders, order))["status"] == "pending"


async def test_an_operator_sees_and_cancels_everybodys_orders(orders: RunningService) -> None:
    placed = [await place(orders, a_user()) for _ in range(2)]
    async with orders.as_operator() as operator:
        listed = (await operator.get("/order", params={"limit": 2})).json()["items"]
        seen = await operator.get(f"/order/{placed[0].id}")
        gone = await operator.post(f"/order/{placed[1].id}/cancel")
    assert [item["orderId"] for item in listed] == [str(o.id) for o in reversed(placed)]
    assert seen.json()["userId"] == str(placed[0].user_id)
    assert (gone.status_code, gone.json()["status"]) == (200, "cancelled")
