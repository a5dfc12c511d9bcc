"""What billing promises, on a real database and a real broker."""

import asyncio
import random
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from apps.billing.models import CASH
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.money import to_text
from events.orders import OrderCancelled, OrderPlaced
from events.users import UserRegistered, UserState, UserUpdated
from tests.support.builders import a_user, an_order, cancelled, told
from tests.support.harness import RunningService


async def open_with(billing: RunningService, user: UserState, amount: str) -> None:
    """An account with money on it."""
    async with billing.http(user) as ada:
        await move(ada, user, "deposit", amount)


async def move(ada: httpx.AsyncClient, user: UserState, kind: str, amount: str) -> dict[str, Any]:
    answer = await ada.post(f"/account/{user.id}/{kind}", json={"amount": amount})
    assert answer.status_code == 201, answer.text
    receipt: dict[str, Any] = answer.json()
    return receipt


async def got(ada: httpx.AsyncClient, path: str, **query: str) -> dict[str, Any]:
    answer = await ada.get(path, params=query)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def balance(billing: RunningService, user: UserState) -> str:
    async with billing.http(user) as ada:
        text: str = (await got(ada, f"/account/{user.id}"))["balance"]
        return text


# Accounts.


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


async def test_money_that_another_replica_takes_meanwhile_is_not_spent_twice(
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
    await billing.has_heard(placed)
    [rejected] = billing.said_of(PaymentRejected)
    assert (rejected.account.balance, rejected.account.version) == (10, 3)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2)], ids=str)
async def test_a_holder_is_known_as_he_was_last_in_whatever_order_the_news_come(
    billing: RunningService, order: tuple[int, ...]
) -> None:
    user = a_user()
    states = {n: user.model_copy(update={"version": n, "name": f"Ada {n}"}) for n in (1, 2, 3)}
    for version in order:
        state = states[version]
        event = UserRegistered(user=state) if version == 1 else UserUpdated(user=state)
        await billing.hears(event, event)
    [holder] = await billing.rows("SELECT name, version FROM holders WHERE id = $1", user.id)
    assert tuple(holder) == ("Ada 3", 3)


# Money in and out.


async def test_a_deposit_raises_the_balance_and_says_so(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        receipt = await move(ada, user, "deposit", "100.5")
    assert (receipt["amount"], receipt["balance"]) == ("100.50", "100.50")
    _, deposited = await billing.says(2)
    assert isinstance(deposited, FundsDeposited)
    assert deposited.transaction.id == UUID(receipt["transactionId"])
    assert (deposited.transaction.kind, deposited.transaction.amount) == ("deposit", 100_50)
    assert (deposited.account.balance, deposited.account.version) == (100_50, 2)


async def test_a_withdrawal_lowers_the_balance_and_says_so(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        await move(ada, user, "deposit", "100.00")
        receipt = await move(ada, user, "withdraw", "99.99")
    assert receipt["balance"] == "0.01"
    _, _, withdrawn = await billing.says(3)
    assert isinstance(withdrawn, FundsWithdrawn)
    assert (withdrawn.transaction.kind, withdrawn.account.balance) == ("withdrawal", 1)


async def test_a_withdrawal_that_does_not_fit_is_refused_and_changes_nothing(
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
    assert billing.said_of(FundsWithdrawn) == []


async def test_an_account_holds_only_so_much(billing: RunningService) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        path = f"/account/{user.id}/deposit"
        await got(ada, f"/account/{user.id}")
        nearly_full = """
            WITH full_account AS (
                UPDATE accounts SET balance = 1e17::bigint - 1, version = 2 WHERE user_id = $1
                RETURNING *)
            INSERT INTO transfers SELECT id, 'deposit', $2, id, balance, id, version, balance,
                NULL, opened_at FROM full_account"""
        await billing.rows(nearly_full, user.id, CASH)
        await move(ada, user, "deposit", "0.01")
        refused = await ada.post(path, json={"amount": "0.01"})
    assert refused.status_code == 403
    assert refused.json()["reason"] == "balance_limit"


async def test_the_statement_is_read_page_by_page_newest_first(billing: RunningService) -> None:
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


async def test_what_is_paid_in_while_the_statement_is_read_shifts_no_line(
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


# Orders.


async def test_an_order_that_fits_is_debited_and_told_with_everything_about_it(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    order = an_order(total="30.00", user=user)
    await billing.hears(OrderPlaced(order=order))
    [succeeded] = billing.said_of(PaymentSucceeded)
    assert succeeded.order == order
    assert (succeeded.payment.order_id, succeeded.payment.amount) == (order.id, 30_00)
    assert (succeeded.account.balance, succeeded.account.version) == (70_00, 3)
    assert await balance(billing, user) == "70.00"
    async with billing.http(user) as ada:
        [line, _] = (await ada.get(f"/account/{user.id}/transactions")).json()["items"]
    assert (line["kind"], line["amount"], line["orderId"]) == ("payment", "30.00", str(order.id))


async def test_a_refusal_is_recorded_with_the_balance_at_that_moment(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "29.99")
    order = an_order(total="30.00", user=user)
    await billing.hears(OrderPlaced(order=order))
    [rejected] = billing.said_of(PaymentRejected)
    assert rejected.order == order
    assert rejected.reason == "insufficient_funds"
    assert rejected.account.balance == 29_99
    await open_with(billing, user, "1000.00")  # too late: decided once and for all
    await billing.hears(OrderPlaced(order=order))
    [charge] = await billing.rows("SELECT * FROM charges WHERE order_id = $1", order.id)
    assert (charge["status"], charge["reason"]) == ("rejected", "insufficient_funds")
    assert (charge["balance"], charge["account_version"]) == (29_99, 2)
    assert len(billing.said_of(PaymentRejected)) == 1
    assert billing.said_of(PaymentSucceeded) == []


async def test_a_small_order_behind_a_rejected_large_one_is_paid(billing: RunningService) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    totals = ["60.00", "50.00", "40.00", "0.01"]
    rows = [told(OrderPlaced(order=an_order(total=total, user=user))) for total in totals]
    await billing.hears(*rows, as_pack=True)
    first, second, third, fourth = (UUID(row.subject) for row in rows)
    assert [e.order.id for e in billing.said_of(PaymentSucceeded)] == [first, third]
    assert [e.order.id for e in billing.said_of(PaymentRejected)] == [second, fourth]
    assert await balance(billing, user) == "0.00"


async def test_an_order_of_exactly_the_balance_is_paid(billing: RunningService) -> None:
    user = a_user()
    await open_with(billing, user, "30.00")
    await billing.hears(OrderPlaced(order=an_order(total="30.00", user=user)))
    assert await balance(billing, user) == "0.00"


# Cancellations.


async def test_a_cancelled_order_is_refunded_once_although_it_is_cancelled_twice(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    order = an_order(total="30.00", user=user)
    await billing.hears(OrderPlaced(order=order))
    again = told(OrderCancelled(order=cancelled(order)))
    await billing.hears(OrderCancelled(order=cancelled(order)), again, again)
    [succeeded] = billing.said_of(PaymentSucceeded)
    [refunded] = billing.said_of(PaymentRefunded)
    assert refunded.payment == succeeded.payment
    assert (refunded.refund.payment_id, refunded.refund.amount) == (succeeded.payment.id, 30_00)
    assert refunded.order == cancelled(order)
    assert refunded.account.balance == 100_00
    assert await balance(billing, user) == "100.00"


async def test_a_cancellation_that_comes_before_its_order_keeps_it_from_being_charged(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    order = an_order(total="30.00", user=user)
    await billing.hears(OrderCancelled(order=cancelled(order)))
    assert billing.said_of(PaymentRefunded) == []
    await billing.hears(OrderPlaced(order=order))
    [rejected] = billing.said_of(PaymentRejected)
    assert rejected.reason == "order_cancelled"
    await billing.hears(OrderPlaced(order=order), OrderCancelled(order=cancelled(order)))
    assert len(billing.said_of(PaymentRejected)) == 1
    assert billing.said_of(PaymentSucceeded) == []
    assert billing.said_of(PaymentRefunded) == []
    assert await balance(billing, user) == "100.00"


async def test_the_cancellation_of_a_rejected_order_changes_nothing(
    billing: RunningService,
) -> None:
    user = a_user()
    order = an_order(total="30.00", user=user)
    await billing.hears(OrderPlaced(order=order))
    await billing.hears(OrderCancelled(order=cancelled(order)))
    assert billing.said_of(PaymentRefunded) == []
    assert await balance(billing, user) == "0.00"


async def test_an_order_and_its_cancellation_that_race_leave_the_money_where_it_was(
    billing: RunningService,
) -> None:
    """Paid and refunded, or never charged; never both, never neither."""
    user = a_user()
    await open_with(billing, user, "1000.00")
    orders = [an_order(total="10.00", user=user) for _ in range(60)]
    events = [told(OrderPlaced(order=order)) for order in orders]
    events += [told(OrderCancelled(order=cancelled(order))) for order in orders]
    random.Random(7).shuffle(events)
    await billing.hears(*events)
    paid = {event.order.id for event in billing.said_of(PaymentSucceeded)}
    refunded = {event.order.id for event in billing.said_of(PaymentRefunded)}
    rejected = {event.order.id for event in billing.said_of(PaymentRejected)}
    assert paid == refunded
    assert rejected == {order.id for order in orders} - paid
    assert await balance(billing, user) == "1000.00"


# The ledger.


async def test_no_balance_falls_below_zero_though_everybody_spends_at_once(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    path = f"/account/{user.id}/withdraw"
    orders = [an_order(total="1.00", user=user) for _ in range(80)]
    async with billing.http(user) as ada:
        answers, _ = await asyncio.gather(
            asyncio.gather(*(ada.post(path, json={"amount": "1.00"}) for _ in range(80))),
            billing.hears(*(OrderPlaced(order=order) for order in orders)),
        )
    taken = [answer.status_code for answer in answers].count(201)
    assert {answer.status_code for answer in answers} <= {201, 403}
    assert taken + len(billing.said_of(PaymentSucceeded)) == 100
    assert len(billing.said_of(PaymentRejected)) == 60 - (80 - taken)
    assert await balance(billing, user) == "0.00"
    assert await billing.value("SELECT min(balance) FROM transfers") >= 0
    await the_books_balance(billing)


async def test_two_accounts_that_pay_in_opposite_order_do_not_deadlock(
    billing: RunningService,
) -> None:
    users = [a_user() for _ in range(10)]
    for user in users:
        await open_with(billing, user, "10.00")
    packs = []
    for start in range(10):
        turned = users[start:] + users[:start]
        packs.append(
            [
                told(OrderPlaced(order=an_order(total="1.00", user=user)))
                for user in (turned if start % 2 else turned[::-1])
            ]
        )
    await asyncio.gather(*(billing.hears(*pack, as_pack=True) for pack in packs))
    assert len(billing.said_of(PaymentSucceeded)) == 100
    for user in users:
        assert await balance(billing, user) == "0.00"


async def the_books_balance(billing: RunningService) -> None:
    """Every balance is the sum of its entries and every transaction sums to zero."""
    assert (
        await billing.rows("""
        SELECT a.id FROM accounts a LEFT JOIN ledger_entries e ON e.account_id = a.id
        GROUP BY a.id HAVING a.balance <> coalesce(sum(e.amount), 0)""")
        == []
    )
    assert (
        await billing.rows("""
        SELECT transaction_id FROM ledger_entries GROUP BY 1
        HAVING sum(amount) <> 0 OR count(*) <> 2""")
        == []
    )
    assert (
        await billing.rows("""
        SELECT id FROM (
            SELECT id, balance - CASE WHEN credit_account = account_id THEN amount ELSE -amount END
                AS before, lag(balance, 1, 0::bigint) OVER w AS previous
            FROM transfers WINDOW w AS (PARTITION BY account_id ORDER BY account_version)
        ) line WHERE before <> previous""")
        == []
    )


async def test_the_books_balance_after_all_kinds_of_movements(billing: RunningService) -> None:
    users = [a_user() for _ in range(5)]
    dice = random.Random(3)
    for user in users:
        await open_with(billing, user, "50.00")
    orders = [
        an_order(total=to_text(dice.randint(1, 20_00)), user=dice.choice(users)) for _ in range(60)
    ]
    await asyncio.gather(
        billing.hears(*(OrderPlaced(order=order) for order in orders)),
        *(open_with(billing, user, "5.00") for user in users * 4),
    )
    await asyncio.gather(
        billing.hears(*(OrderCancelled(order=cancelled(order)) for order in orders[::3])),
        *(open_with(billing, user, "5.00") for user in users * 4),
    )
    await the_books_balance(billing)
    kinds = {row["kind"] for row in await billing.rows("SELECT DISTINCT kind FROM transfers")}
    assert kinds >= {"deposit", "payment", "refund"}


# Who may ask.


async def test_another_persons_account_answers_like_one_that_is_not_there(
    billing: RunningService,
) -> None:
    ada, bob = a_user(), a_user()
    await open_with(billing, ada, "10.00")
    async with billing.http(bob) as http:
        foreign = [
            await http.get(f"/account/{ada.id}"),
            await http.get(f"/account/{ada.id}/transactions"),
            await http.post(f"/account/{ada.id}/deposit", json={"amount": 1}),
            await http.post(f"/account/{ada.id}/withdraw", json={"amount": 1}),
        ]
    assert [answer.status_code for answer in foreign] == [404] * 4
    assert {answer.json()["reason"] for answer in foreign} == {"not_found"}
    assert await balance(billing, ada) == "10.00"


async def test_an_operator_sees_every_account(billing: RunningService) -> None:
    user = a_user()
    await open_with(billing, user, "10.00")
    async with billing.as_operator() as operator:
        assert (await operator.get(f"/account/{user.id}")).json()["balance"] == "10.00"
        lines = (await operator.get(f"/account/{user.id}/transactions")).json()["items"]
    assert len(lines) == 1
