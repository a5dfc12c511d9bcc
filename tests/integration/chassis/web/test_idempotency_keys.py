"""What is the same key and the same request, and what a repeat gets: as the IETF's draft has it, and Stripe."""

from typing import Any

import pytest

from events.orders import OrderPlaced
from tests.integration.chassis.web.test_commands import balance, deposit, key, replayed
from tests.support.builders import a_user, payment_succeeded
from tests.support.harness import RunningService


@pytest.mark.parametrize("amount", ["5", "5.0", 5, 5.0], ids=repr)
async def test_an_amount_in_another_spelling_is_the_same_request(
    billing: RunningService, amount: Any
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        await deposit(ada, user, {"amount": "5.00"})
        again = await deposit(ada, user, {"amount": amount})
    assert (again.status_code, replayed(again)) == (201, True)
    assert await balance(billing, user) == "5.00"


async def test_a_quoted_key_is_the_same_as_without_quotes(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        for name in ('"k1"', "k1", r'"k\"1\\"', 'k"1\\'):
            await deposit(ada, user, **{"Idempotency-Key": name})
    assert await balance(billing, user) == "10.00"


@pytest.mark.parametrize("header", ["Idempotency-Key", "Authorization", "Content-Type"])
async def test_a_repeated_header_is_refused(billing: RunningService, header: str) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        sent = {
            "Content-Type": "application/json",
            "Authorization": ada.headers["Authorization"],
        } | key()
        del ada.headers["Authorization"]
        answer = await ada.post(
            f"/account/{user.id}/deposit",
            content=b'{"amount": 1}',
            headers=[*sent.items(), (header, sent[header])],
        )
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [header]
    assert await balance(billing, user) == "0.00"


async def test_another_order_or_message_with_the_same_key_is_refused(
    orders: RunningService, notifications: RunningService
) -> None:
    message = {"userId": str(a_user().id), "subject": "Hello", "body": "Hello"}
    async with orders.http(a_user()) as ada, notifications.as_operator() as operator:
        for http, path, body, other in (
            (ada, "/order/create", {"totalPrice": 5}, {"totalPrice": 6}),
            (operator, "/notification/send", message, message | {"body": "Other"}),
        ):
            answers = [await http.post(path, json=sent, headers=key()) for sent in (body, other)]
            assert answers[0].status_code < 300
            assert answers[1].json()["reason"] == "idempotency_key_reused"


async def test_a_repeat_gets_the_first_response_although_the_order_is_paid(
    orders: RunningService,
) -> None:
    async with orders.http(a_user()) as ada:
        first = await ada.post("/order/create", json={"totalPrice": 5}, headers=key())
        [placed] = await orders.publishes(1)
        assert isinstance(placed, OrderPlaced)
        await orders.processes(payment_succeeded(placed.order))
        again = await ada.post("/order/create", json={"totalPrice": 5}, headers=key())
        now = await ada.get(first.headers["Location"])
    assert (again.text, replayed(again)) == (first.text, True)
    assert now.json()["status"] == "paid"
