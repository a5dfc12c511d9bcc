"""Waiting for the outcome of an order, and following its updates."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from apps.orders import api, updates
from apps.orders.updates import OrderUpdates
from chassis.web.auth import LEEWAY_SECONDS
from events.orders import OrderPlaced, OrderRejected
from events.users import UserState
from tests.support.builders import (
    a_user,
    payment_rejected,
    payment_succeeded,
)
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.shopping import cancel, place, view


async def wait_for(
    orders: RunningService, user: UserState, prefer: str, outcome: Any = None
) -> httpx.Response:
    """Place an order and wait; `outcome` is consumed meanwhile."""
    async with orders.http(user) as ada:
        waiting = asyncio.create_task(
            ada.post("/order/create", json={"totalPrice": "30.00"}, headers={"Prefer": prefer})
        )
        if outcome is not None:
            [placed] = await orders.publishes(1)
            assert isinstance(placed, OrderPlaced)
            assert not waiting.done()
            await orders.processes(outcome(placed.order))
        return await waiting


async def test_a_waiting_client_is_answered_once_the_order_is_paid(orders: RunningService) -> None:
    answer = await wait_for(orders, a_user(), "wait=20", payment_succeeded)
    assert (answer.status_code, answer.json()["status"]) == (201, "paid")
    assert answer.headers["Preference-Applied"] == "wait=20"
    assert answer.headers["Location"] == f"/order/{answer.json()['orderId']}"


async def test_a_commit_of_this_process_answers_a_waiting_client_without_a_poll(
    orders: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updates, "POLL_SECONDS", 3600.0)
    answer = await wait_for(orders, a_user(), "wait=20", payment_succeeded)
    assert (answer.status_code, answer.json()["status"]) == (201, "paid")


async def test_a_waiting_client_gets_the_reason_of_a_rejection(orders: RunningService) -> None:
    answer = await wait_for(orders, a_user(), "wait=20", payment_rejected)
    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Preference-Applied"] == "wait=20"
    [rejected] = orders.published_of(OrderRejected)
    assert answer.json()["orderId"] == str(rejected.order.id)
    assert answer.json()["reason"] == "insufficient_funds"


async def test_an_outcome_that_cannot_be_read_is_no_reason_to_order_again(
    orders: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(api, "_read", away)
    answer = await wait_for(orders, a_user(), "wait=20")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert answer.headers["Location"] == f"/order/{answer.json()['orderId']}"
    [placed] = await orders.publishes(1)
    assert isinstance(placed, OrderPlaced)
    assert str(placed.order.id) == answer.json()["orderId"]


async def test_a_client_that_waits_too_long_gets_the_accepted_order(
    orders: RunningService,
) -> None:
    answer = await wait_for(orders, a_user(), "wait=1")
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert answer.headers["Preference-Applied"] == "wait=1"


async def test_a_client_waits_at_most_half_a_minute(
    orders: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.orders.api.WAIT_LIMIT_SECONDS", 1)
    answer = await wait_for(orders, a_user(), "wait=999999")
    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "wait=1"


@pytest.mark.parametrize("prefer", ["respond-async", "wait=", "wait=-1", "wait=soon", "await=5"])
async def test_an_unknown_preference_is_ignored(orders: RunningService, prefer: str) -> None:
    answer = await wait_for(orders, a_user(), prefer)
    assert (answer.status_code, answer.json()["status"]) == (201, "pending")
    assert "Preference-Applied" not in answer.headers


async def test_a_waiting_client_receives_a_cancellation(orders: RunningService) -> None:
    user = a_user()
    async with orders.http(user) as ada:
        body, headers = {"totalPrice": 1}, {"Prefer": "respond-async, wait=20"}
        waiting = asyncio.create_task(ada.post("/order/create", json=body, headers=headers))
        [placed] = await orders.publishes(1)
        assert isinstance(placed, OrderPlaced)
        await cancel(orders, placed.order)
        answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (201, "cancelled")


# Following an order.


def sent(stream: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The events of a stream: name, id, data. Comments are left out."""
    found = []
    for block in stream.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


async def test_a_stream_has_the_order_then_its_change_and_ends(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    async with orders.http(order.user_id) as ada:
        following = asyncio.create_task(ada.get(f"/order/{order.id}/events"))

        async def subscribed() -> bool:
            return order.id in orders.provided(OrderUpdates)._waiting.values()

        await eventually(subscribed)
        await orders.processes(payment_succeeded(order))
        answer = await following
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = sent(answer.text)
    assert [(name, id) for name, id, _ in events] == [("pending", "1"), ("paid", "2")]
    assert events[-1][2] == await view(orders, order)


async def test_the_stream_of_a_settled_order_ends_at_once(orders: RunningService) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_rejected(order))
    async with orders.http(order.user_id) as ada:
        answer = await ada.get(f"/order/{order.id}/events")
    assert [name for name, _, _ in sent(answer.text)] == ["rejected"]


@pytest.mark.parametrize("seen", ["2", "3"])
async def test_a_client_that_has_received_the_outcome_gets_204(
    orders: RunningService, seen: str
) -> None:
    """204 ends the reconnecting of an EventSource, which would else receive the outcome every few seconds."""
    order = await place(orders, a_user())
    await orders.processes(payment_succeeded(order))
    async with orders.http(order.user_id) as ada:
        answer = await ada.get(f"/order/{order.id}/events", headers={"Last-Event-ID": seen})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("seen", ["1", "0", "", "x", "-1", "9" * 50, "²"])
async def test_a_client_that_comes_back_receives_what_it_has_not(
    orders: RunningService, seen: str
) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_succeeded(order))
    headers = {b"Last-Event-ID": seen.encode()}
    async with orders.http(order.user_id) as ada:
        answer = await ada.get(f"/order/{order.id}/events", headers=headers)
    assert answer.status_code == 200
    assert [(name, id) for name, id, _ in sent(answer.text)] == [("paid", "2")]


async def test_a_client_that_comes_back_to_a_pending_order_receives_the_change_only(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    async with orders.http(order.user_id) as ada:
        headers = {"Last-Event-ID": "1"}
        following = asyncio.create_task(ada.get(f"/order/{order.id}/events", headers=headers))

        async def subscribed() -> bool:
            return order.id in orders.provided(OrderUpdates)._waiting.values()

        await eventually(subscribed)
        await orders.processes(payment_succeeded(order))
        answer = await following
    assert [(name, id) for name, id, _ in sent(answer.text)] == [("paid", "2")]


async def test_a_stream_ends_with_the_token(orders: RunningService) -> None:
    order = await place(orders, a_user())
    ends_soon = int(time.time()) + 2 - LEEWAY_SECONDS
    token = orders.signer.token(order.user_id, exp=ends_soon)
    async with orders.http(token=token) as ada:
        answer = await ada.get(f"/order/{order.id}/events")
        assert [name for name, _, _ in sent(answer.text)] == ["pending"]
        assert (await ada.get(f"/order/{order.id}/events")).status_code == 401
