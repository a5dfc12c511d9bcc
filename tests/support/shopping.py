"""What a user does with their orders, over HTTP."""

from typing import Any
from uuid import UUID

import httpx

from events.orders import OrderPlaced, OrderState
from events.users import UserState
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
    [placed] = [event for event in orders.published_of(OrderPlaced) if event.order.id == id]
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
