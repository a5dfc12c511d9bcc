"""Balances, deposits, withdrawals and access to them, on a real database and a real broker."""

import asyncio
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from apps.billing.models import CASH
from events.billing import (
    FundsDeposited,
    FundsWithdrawn,
    PaymentRejected,
)
from events.orders import OrderCancelled, OrderPlaced
from events.users import UserRegistered, UserUpdated
from tests.support.builders import a_user, an_order, cancelled
from tests.support.harness import RunningService
from tests.support.purse import balance, got, move, open_with


async def test_money_taken_by_a_concurrent_replica_is_not_spent_twice(
    billing: RunningService,
) -> None:
    user = a_user()
    order = an_order(total="60.00", user=user)
    async with billing.http(user) as ada:
        await move(ada, user, "deposit", "100.00")
        async with billing.meanwhile() as other:
            account = await other.fetchval(
                "UPDATE accounts SET balance = 10, version = 3 WHERE user_id = $1 RETURNING id",
                user.id,
            )
            await other.execute(
                "INSERT INTO transfers VALUES"
                " ($1, 'withdrawal', $2, $3, 9990, $2, 3, 10, NULL, now())",
                uuid7(),
                account,
                CASH,
            )
            withdrawal = asyncio.create_task(
                ada.post(f"/account/{user.id}/withdraw", json={"amount": "60.00"})
            )
            [placed] = await billing.receives(OrderPlaced(order=order))
            await billing.is_blocked()
        assert (await withdrawal).json()["balance"] == "0.10"
    await billing.has_processed(placed)
    [rejected] = billing.published_of(PaymentRejected)
    assert (rejected.account.balance, rejected.account.version) == (10, 3)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2)], ids=str)
async def test_the_newest_version_of_a_holder_is_stored_in_any_order_of_events(
    billing: RunningService, order: tuple[int, ...]
) -> None:
    user = a_user()
    states = {n: user.model_copy(update={"version": n}) for n in (1, 2, 3)}
    for version in order:
        state = states[version]
        event = UserRegistered(user=state) if version == 1 else UserUpdated(user=state)
        await billing.processes(event, event)
    [holder] = await billing.rows("SELECT version FROM holders WHERE id = $1", user.id)
    assert holder["version"] == 3


# Deposits and withdrawals.


async def test_a_deposit_raises_the_balance_and_is_published(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        receipt = await move(ada, user, "deposit", "100.5")
    assert (receipt["amount"], receipt["balance"]) == ("100.50", "100.50")
    _, deposited = await billing.publishes(2)
    assert isinstance(deposited, FundsDeposited)
    assert deposited.transaction.id == UUID(receipt["transactionId"])
    assert (deposited.transaction.kind, deposited.transaction.amount) == ("deposit", 100_50)
    assert (deposited.account.balance, deposited.account.version) == (100_50, 2)


async def test_a_withdrawal_lowers_the_balance_and_is_published(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        await move(ada, user, "deposit", "100.00")
        receipt = await move(ada, user, "withdraw", "99.99")
    assert receipt["balance"] == "0.01"
    _, _, withdrawn = await billing.publishes(3)
    assert isinstance(withdrawn, FundsWithdrawn)
    assert (withdrawn.transaction.kind, withdrawn.account.balance) == ("withdrawal", 1)


async def test_an_uncovered_withdrawal_has_no_effect(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        await move(ada, user, "deposit", "10.00")
        refused = await ada.post(f"/account/{user.id}/withdraw", json={"amount": "10.01"})
    assert refused.status_code == 403
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["reason"] == "insufficient_funds"
    assert refused.json()["balance"] == "10.00"
    assert await balance(billing, user) == "10.00"
    assert billing.published_of(FundsWithdrawn) == []


async def test_a_deposit_beyond_the_balance_limit_is_refused(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        path = f"/account/{user.id}/deposit"
        await got(ada, f"/account/{user.id}")
        nearly_full = """
            WITH full_account AS (
                UPDATE accounts SET balance = 1e17::bigint - 1, net_deposits = 1e17::bigint - 1, version = 2
                WHERE user_id = $1 RETURNING *)
            INSERT INTO transfers SELECT id, 'deposit', $2, id, balance, id, version, balance,
                NULL, opened_at FROM full_account"""
        await billing.rows(nearly_full, user.id, CASH)
        await move(ada, user, "deposit", "0.01")
        order = an_order(total="1000000000000.00", user=user)
        await billing.processes(OrderPlaced(order=order))  # it may be refunded
        refused = await ada.post(path, json={"amount": "0.01"})
    assert refused.status_code == 403
    assert refused.json()["reason"] == "balance_limit"
    await billing.processes(OrderCancelled(order=cancelled(order)))
    assert await balance(billing, user) == "1000000000000000.00"


async def test_a_statement_is_paged_newest_first(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        for amount in range(1, 8):
            await move(ada, user, "deposit", f"{amount}.00")
        path, lines, cursor = f"/account/{user.id}/transactions", [], None
        sizes = []
        while True:
            query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
            page = await got(ada, path, **query)
            lines += page["items"]
            sizes.append(len(page["items"]))
            if (cursor := page["nextCursor"]) is None:
                break
    assert sizes == [3, 3, 1]
    assert [line["amount"] for line in lines] == [f"{n}.00" for n in range(7, 0, -1)]
    assert [line["balance"] for line in lines] == [f"{n}.00" for n in (28, 21, 15, 10, 6, 3, 1)]
    assert {line["kind"] for line in lines} == {"deposit"}


async def test_a_deposit_between_two_pages_of_a_statement_shifts_no_line(
    billing: RunningService,
) -> None:
    user = a_user()
    path = f"/account/{user.id}/transactions"
    async with billing.http(user) as ada:
        for amount in (1, 2, 3, 4):
            await move(ada, user, "deposit", f"{amount}.00")
        first = await got(ada, path, limit="2")
        await move(ada, user, "deposit", "5.00")
        second = await got(ada, path, limit="2", cursor=first["nextCursor"])
    assert [line["amount"] for line in second["items"]] == ["2.00", "1.00"]
    assert second["nextCursor"] is None


# Access.


async def test_an_operator_sees_every_account(billing: RunningService) -> None:
    user = a_user()
    await open_with(billing, user, "10.00")
    async with billing.as_operator() as operator:
        assert (await operator.get(f"/account/{user.id}")).json()["balance"] == "10.00"
        lines = (await operator.get(f"/account/{user.id}/transactions")).json()["items"]
    assert len(lines) == 1


async def test_an_operator_moves_money_of_a_known_user(billing: RunningService) -> None:
    user = a_user()
    await billing.processes(UserRegistered(user=user))
    async with billing.as_operator() as operator:
        receipt = await move(operator, user, "deposit", "5.00")
    assert receipt["balance"] == "5.00"
