"""An account is opened once, by the first event about its user."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from uuid_utils.compat import uuid7

from apps.billing.use_cases import ViewAccount, view_accounts
from chassis.database.transaction import Pool, transaction
from events.base import Causation
from events.billing import (
    AccountOpened,
    PaymentRejected,
)
from events.orders import OrderPlaced
from events.users import UserRegistered
from tests.support.builders import a_user, an_order
from tests.support.harness import RunningService
from tests.support.purse import got

OPENED = (
    "INSERT INTO accounts (id, user_id, balance, version, opened_at) VALUES ($1, $1, 0, 1, now())"
)


async def test_registration_opens_an_account_with_nothing_on_it(billing: RunningService) -> None:
    user = a_user()
    await billing.hears(UserRegistered(user=user))
    [opened] = billing.said
    assert isinstance(opened, AccountOpened)
    assert (opened.account.user_id, opened.account.balance) == (user.id, 0)
    async with billing.http(user) as ada:
        answer = await ada.get(f"/account/{user.id}")
    assert answer.json() == {
        "accountId": str(opened.account.id),
        "userId": str(user.id),
        "balance": "0.00",
        "currency": "EUR",
        "version": 1,
    }


async def test_first_use_opens_the_account_and_registration_finds_it_open(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        first = await ada.get(f"/account/{user.id}")
    assert first.status_code == 200
    await billing.hears(UserRegistered(user=user))
    assert len(billing.said_of(AccountOpened)) == 1


async def test_an_order_that_comes_before_its_user_opens_the_account(
    billing: RunningService,
) -> None:
    user = a_user()
    await billing.hears(OrderPlaced(order=an_order(user=user)))
    await billing.hears(UserRegistered(user=user))
    assert [type(event) for event in billing.said] == [AccountOpened, PaymentRejected]


async def test_an_account_is_opened_once_though_everything_happens_at_once(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        answers, _, _ = await asyncio.gather(
            asyncio.gather(*(got(ada, f"/account/{user.id}") for _ in range(20))),
            billing.hears(UserRegistered(user=user)),
            billing.hears(OrderPlaced(order=an_order(user=user))),
        )
    assert len({answer["accountId"] for answer in answers}) == 1
    await billing.is_quiet()
    assert len(billing.said_of(AccountOpened)) == 1


async def test_an_account_that_another_replica_opens_meanwhile_is_not_opened_again(
    billing: RunningService,
) -> None:
    user, id = a_user(), uuid7()
    async with billing.http(user) as ada:
        async with billing.meanwhile() as other:
            await other.execute("INSERT INTO accounts VALUES ($1, $2, 0, 1, now())", id, user.id)
            asked = asyncio.create_task(got(ada, f"/account/{user.id}"))
            await billing.is_blocked()
        account = await asked
    assert account["accountId"] == str(id)
    await billing.is_quiet()
    assert billing.said == []


async def test_an_operator_opens_no_account_for_nobody(billing: RunningService) -> None:
    nobody = uuid7()
    async with billing.as_operator() as operator:
        path = f"/account/{nobody}"
        answers = [
            await operator.get(path),
            await operator.post(f"{path}/deposit", json={"amount": "1.00"}),
            await operator.post(f"{path}/withdraw", json={"amount": "1.00"}),
        ]
    assert {answer.status_code for answer in answers} == {404}
    assert await billing.value("SELECT count(*) FROM accounts WHERE user_id = $1", nobody) == 0
    await billing.is_quiet()
    assert billing.said == []


async def test_accounts_are_opened_in_the_order_of_their_users(billing: RunningService) -> None:
    pool = billing.service.database.pool
    first, second = sorted([uuid7(), uuid7()])
    async with billing.meanwhile() as other:
        await other.execute(OPENED, first)
        waiting = asyncio.create_task(_uses(pool, [second, first]))
        await billing.is_blocked()
        await other.execute(OPENED, second)  # would deadlock if the second were open
    await waiting


async def test_no_account_is_locked_while_others_are_opened(billing: RunningService) -> None:
    pool = billing.service.database.pool
    settled, fresh = sorted([uuid7(), uuid7()])
    await _uses(pool, [settled])
    async with billing.meanwhile() as other:
        await other.execute(OPENED, fresh)
        waiting = asyncio.create_task(_uses(pool, [settled, fresh]))
        await billing.is_blocked()
        await other.execute("UPDATE accounts SET version = 2 WHERE user_id = $1", settled)
    await waiting


async def _uses(pool: Pool, users: Sequence[UUID]) -> None:
    """First use of accounts, in one transaction."""
    async with transaction(pool) as tx:
        await view_accounts(
            tx, [ViewAccount(user, Causation("a-flow"), by_owner=True) for user in users]
        )
