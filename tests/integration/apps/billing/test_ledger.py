"""The ledger balances under concurrent transfers."""

import asyncio
import random

from events.billing import PaymentRejected, PaymentSucceeded
from events.money import to_text
from events.orders import OrderCancelled, OrderPlaced
from tests.support.builders import a_user, an_order, cancelled, outbox_row
from tests.support.harness import RunningService
from tests.support.purse import balance, open_with


async def test_concurrent_orders_never_overdraw_an_account(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    path = f"/account/{user.id}/withdraw"
    orders = [an_order(total="1.00", user=user) for _ in range(80)]
    async with billing.http(user) as ada:
        answers, _ = await asyncio.gather(
            asyncio.gather(*(ada.post(path, json={"amount": "1.00"}) for _ in range(80))),
            billing.processes(*(OrderPlaced(order=order) for order in orders)),
        )
    taken = [answer.status_code for answer in answers].count(201)
    assert {answer.status_code for answer in answers} <= {201, 403}
    assert taken + len(billing.published_of(PaymentSucceeded)) == 100
    assert len(billing.published_of(PaymentRejected)) == 60 - (80 - taken)
    assert await balance(billing, user) == "0.00"
    assert await billing.value("SELECT min(balance) FROM transfers") >= 0
    await the_books_balance(billing)


async def test_accounts_locked_in_opposite_orders_do_not_deadlock(
    billing: RunningService,
) -> None:
    users = [a_user() for _ in range(10)]
    for user in users:
        await open_with(billing, user, "10.00")
    message_batches = []
    for start in range(10):
        turned = users[start:] + users[:start]
        message_batches.append(
            [
                outbox_row(OrderPlaced(order=an_order(total="1.00", user=user)))
                for user in (turned if start % 2 else turned[::-1])
            ]
        )
    await asyncio.gather(*(billing.processes(*batch, as_batch=True) for batch in message_batches))
    assert len(billing.published_of(PaymentSucceeded)) == 100
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
        billing.processes(*(OrderPlaced(order=order) for order in orders)),
        *(open_with(billing, user, "5.00") for user in users * 4),
    )
    await asyncio.gather(
        billing.processes(*(OrderCancelled(order=cancelled(order)) for order in orders[::3])),
        *(open_with(billing, user, "5.00") for user in users * 4),
    )
    await the_books_balance(billing)
    kinds = {row["kind"] for row in await billing.rows("SELECT DISTINCT kind FROM transfers")}
    assert kinds >= {"deposit", "payment", "refund"}
