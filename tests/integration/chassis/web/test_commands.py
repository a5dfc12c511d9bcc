"""Idempotency-Key: one effect and one response per user and key, concurrently, later, and within one batch."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import Response

from apps.billing import use_cases
from apps.billing.schemas import ReceiptView
from apps.billing.use_cases import MoveFunds
from chassis.database.transaction import transaction
from chassis.web.commands import Committers, IdempotentRequest, execute
from events.base import Causation
from events.billing import FundsDeposited
from events.orders import OrderPlaced
from events.users import UserState
from tests.support.builders import a_user, payment_succeeded
from tests.support.harness import RunningService

AT_ONCE = 50


def key(value: str = "my-key") -> dict[str, str]:
    return {"Idempotency-Key": value}


def replayed(answer: httpx.Response) -> bool:
    return str(answer.headers.get("Idempotent-Replayed")) == "true"


async def deposit(
    ada: httpx.AsyncClient, user: UserState, body: Any = None, **headers: str
) -> httpx.Response:
    return await ada.post(
        f"/account/{user.id}/deposit", json=body or {"amount": "5.00"}, headers=key() | headers
    )


async def balance(billing: RunningService, user: UserState) -> str:
    async with billing.http(user) as ada:
        text: str = (await ada.get(f"/account/{user.id}")).json()["balance"]
    return text


async def test_fifty_concurrent_requests_with_one_key_have_one_effect_and_equal_responses(
    orders: RunningService,
) -> None:
    async with orders.http(a_user()) as ada:
        answers = await asyncio.gather(
            *(
                ada.post("/order/create", json={"totalPrice": 5}, headers=key())
                for _ in range(AT_ONCE)
            )
        )
    await orders.publishes(1)
    assert {answer.status_code for answer in answers} == {201}
    assert len({(answer.text, answer.headers["Location"]) for answer in answers}) == 1
    assert [replayed(answer) for answer in answers].count(False) == 1


async def test_a_repeated_transfer_moves_money_once_per_key(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        answers = await asyncio.gather(*(deposit(ada, user) for _ in range(AT_ONCE)))
        later = await deposit(ada, user)
    assert {(answer.status_code, answer.text) for answer in [*answers, later]} == {
        (201, answers[0].text)
    }
    assert [replayed(answer) for answer in answers].count(False) == 1
    assert replayed(later)
    assert await balance(billing, user) == "5.00"
    await billing.is_quiet()
    assert len(billing.published_of(FundsDeposited)) == 1


async def test_another_body_with_the_same_key_is_refused(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        await deposit(ada, user)
        other = await deposit(ada, user, {"amount": "6.00"})
        path = await ada.post(
            f"/account/{user.id}/withdraw", json={"amount": "5.00"}, headers=key()
        )
    for answer in (other, path):
        assert answer.status_code == 422
        assert answer.json()["reason"] == "idempotency_key_reused"
        assert not replayed(answer)
    assert await balance(billing, user) == "5.00"


async def test_of_two_concurrent_bodies_with_one_key_one_has_an_effect(
    billing: RunningService,
) -> None:
    user = a_user()
    bodies = [{"amount": f"{n}.00"} for n in (1, 2)] * 10
    async with billing.http(user) as ada:
        answers = await asyncio.gather(*(deposit(ada, user, body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [422] * 10
    accepted = {answer.text for answer in answers if answer.status_code == 201}
    assert len(accepted) == 1
    assert await balance(billing, user) in {"1.00", "2.00"}


async def test_a_body_in_another_spelling_is_the_same_request(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        first = await deposit(ada, user)
        again = await ada.post(
            f"/account/{user.id}/deposit",
            content=b' {\n "amount" :"5.00" } ',
            headers={"Content-Type": "application/json"} | key(),
        )
    assert again.text == first.text
    assert replayed(again)


async def test_a_key_belongs_to_its_user_and_has_an_effect_for_each(
    billing: RunningService,
) -> None:
    users = [a_user(), a_user()]
    for user in users:
        async with billing.http(user) as http:
            answer = await deposit(http, user)
        assert (answer.status_code, replayed(answer)) == (201, False)
        assert await balance(billing, user) == "5.00"


async def test_every_request_without_a_key_has_its_effect(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        await asyncio.gather(
            *(ada.post(f"/account/{user.id}/deposit", json={"amount": 1}) for _ in range(10))
        )
    assert await balance(billing, user) == "10.00"


async def test_a_stored_refusal_is_returned_although_it_would_now_succeed(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        path, body = f"/account/{user.id}/withdraw", {"amount": "3.00"}
        refused = await ada.post(path, json=body, headers=key("withdrawal"))
        await deposit(ada, user)
        again = await ada.post(path, json=body, headers=key("withdrawal"))
    assert refused.status_code == again.status_code == 403
    assert again.json() == refused.json()
    assert again.headers["Content-Type"] == "application/problem+json"
    assert replayed(again)
    assert await balance(billing, user) == "5.00"


async def test_an_invalid_request_does_not_use_its_key(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        invalid = await deposit(ada, user, {"amount": "-5.00"})
        valid = await deposit(ada, user)
    assert (invalid.status_code, valid.status_code) == (422, 201)
    assert not replayed(valid)


async def test_a_repeated_waiting_order_is_placed_once_and_gets_its_outcome(
    orders: RunningService,
) -> None:
    async with orders.http(a_user()) as ada:

        async def order() -> httpx.Response:
            headers = key() | {"Prefer": "wait=20"}
            return await ada.post("/order/create", json={"totalPrice": 5}, headers=headers)

        waiting = [asyncio.create_task(order()) for _ in range(5)]
        [placed] = await orders.publishes(1)
        assert isinstance(placed, OrderPlaced)
        await orders.processes(payment_succeeded(placed.order))
        answers = [*await asyncio.gather(*waiting), await order()]
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(201, "paid")}
    assert len({answer.text for answer in answers}) == 1
    assert [replayed(answer) for answer in answers].count(False) == 1


@pytest.mark.parametrize("bad", ["", " ", "a b", '""', "ключ", "x" * 256, "a\tb"], ids=repr)
async def test_a_key_that_is_not_plain_text_is_refused(billing: RunningService, bad: str) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        answer = await ada.post(
            f"/account/{user.id}/deposit",
            json={"amount": 1},
            headers={b"Idempotency-Key": bad.encode()},
        )
    assert answer.status_code == 422
    assert await balance(billing, user) == "0.00"


# Idempotent requests within one transaction.


def asked(
    user: UserState, key: str, amount: int, fingerprint: str = "same"
) -> IdempotentRequest[MoveFunds]:
    command = MoveFunds(user.id, amount, Causation("a-flow"), by_owner=True)
    return IdempotentRequest(
        command,
        f"/account/{user.id}/deposit",
        ReceiptView.model_validate,
        201,
        key=(user.id, key),
        fingerprint=fingerprint,
    )


async def in_one_batch(
    billing: RunningService, batch: Sequence[IdempotentRequest[MoveFunds]]
) -> Sequence[Response]:
    async with transaction(billing.service.database.pool) as tx:
        return await execute(use_cases.deposit, tx, batch)


async def test_a_key_twice_in_one_batch_has_one_effect(
    billing: RunningService,
) -> None:
    user, other = a_user(), a_user()
    batch = [
        asked(user, "a", 100),
        asked(user, "a", 100),
        asked(other, "a", 100),
        asked(user, "b", 100),
        asked(user, "a", 900, fingerprint="another"),
    ]
    first, same, others, second, reused = await in_one_batch(billing, batch)
    assert [a.status_code for a in (first, same, others, second, reused)] == [
        201,
        201,
        201,
        201,
        422,
    ]
    assert same.body == first.body
    assert same.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in {**first.headers, **others.headers, **second.headers}
    assert await balance(billing, user) == "2.00"
    assert await balance(billing, other) == "1.00"


async def test_replicas_with_one_key_at_once_have_one_effect(billing: RunningService) -> None:
    user = a_user()
    pool = billing.service.database.pool
    replicas = [Committers("billing", pool, ())[use_cases.deposit] for _ in range(4)]
    answers = await asyncio.gather(
        *(replica.submit(asked(user, f"k{n}", 100)) for replica in replicas for n in range(3))
    )
    fresh = [a for a in answers if "Idempotent-Replayed" not in a.headers]
    assert len(fresh) == 3
    assert {a.body for a in answers} == {a.body for a in fresh}
    assert await balance(billing, user) == "3.00"


async def test_a_failed_transaction_leaves_the_key_unused(billing: RunningService) -> None:
    user = a_user()

    async def fails_at_the_end() -> None:
        async with transaction(billing.service.database.pool) as tx:
            await execute(use_cases.deposit, tx, [asked(user, "a", 100)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails_at_the_end()
    [answer] = await in_one_batch(billing, [asked(user, "a", 100)])
    assert "Idempotent-Replayed" not in answer.headers
    assert await balance(billing, user) == "1.00"
