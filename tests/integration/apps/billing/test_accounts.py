"""An account is opened once, by the first event about its user."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from uuid_utils.compat import uuid7

from apps.billing.use_cases import ViewAccount, view_accounts
from chassis.database.transaction import Pool, transaction
from events.base import Causation
from events.billing import AccountOpened, PaymentRejected
from events.orders import OrderPlaced
from events.users import UserRegistered
from tests.support.builders import a_user, an_order
from tests.support.harness import RunningService
from tests.support.purse import got

OPENED = (
    "INSERT INTO accounts (id, user_id, balance, version, opened_at) VALUES ($1, $1, 0, 1, now())"
)


async def test_a_registration_opens_an_empty_account(billing: RunningService) -> None:
    user = a_user()
    await billing.processes(UserRegistered(user=user))
    [opened] = billing.published
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


async def test_an_account_opened_by_its_first_use_is_kept_at_registration(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        first = await ada.get(f"/account/{user.id}")
    assert first.status_code == 200
    await billing.processes(UserRegistered(user=user))
    assert len(billing.published_of(AccountOpened)) == 1


async def test_an_order_before_its_registration_opens_the_account(
    billing: RunningService,
) -> None:
    user = a_user()
    await billing.processes(OrderPlaced(order=an_order(user=user)))
    await billing.processes(UserRegistered(user=user))
    assert [type(event) for event in billing.published] == [AccountOpened, PaymentRejected]


async def test_concurrent_events_open_one_account(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        answers, _, _ = await asyncio.gather(
            asyncio.gather(*(got(ada, f"/account/{user.id}") for _ in range(20))),
            billing.processes(UserRegistered(user=user)),
            billing.processes(OrderPlaced(order=an_order(user=user))),
        )
    assert len({answer["accountId"] for answer in answers}) == 1
    await billing.is_quiet()
    assert len(billing.published_of(AccountOpened)) == 1


async def test_an_account_opened_by_a_concurrent_replica_is_not_opened_again(
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
    assert billing.published == []


async def test_an_operator_opens_no_account_of_an_unknown_user(billing: RunningService) -> None:
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
    assert billing.published == []


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
