"""Many requests at once have the effects of as many, one after another."""

import asyncio
from collections import Counter

from uuid_utils.compat import uuid7

from tests.stories.stack import Stack


async def test_of_a_thousand_concurrent_orders_the_six_hundred_covered_are_paid(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="600.00")
    order_ids = await asyncio.gather(*(ada.order("1.00") for _ in range(1000)))
    await chorus.is_quiet()

    by_status = "SELECT status, count(*) FROM orders WHERE id = ANY($1) GROUP BY status"
    statuses = await chorus.rows("orders", by_status, order_ids)
    assert {row["status"]: row["count"] for row in statuses} == {"paid": 600, "rejected": 400}
    assert await ada.balance() == "0.00"
    mail = Counter(email.subject for email in await ada.mail(1000))
    assert mail == {
        "Your order is paid: 1.00 EUR": 600,
        "Your order could not be paid: 1.00 EUR": 400,
    }
    entries = """
        SELECT kind, count(*), sum(amount) AS total FROM ledger_entries
        JOIN accounts ON accounts.id = account_id WHERE user_id = $1 GROUP BY kind
    """
    ledger = {row["kind"]: row for row in await chorus.rows("billing", entries, ada.id)}
    assert (ledger["deposit"]["count"], ledger["deposit"]["total"]) == (1, 600_00)
    assert (ledger["payment"]["count"], ledger["payment"]["total"]) == (600, -600_00)


async def test_fifty_concurrent_requests_with_one_key_make_one_order_debit_and_notification(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    key = str(uuid7())
    answers = await asyncio.gather(*(ada.ask_for_order("30.00", key=key) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert len({answer.headers["Location"] for answer in answers}) == 1
    replayed = Counter(answer.headers.get("Idempotent-Replayed") for answer in answers)
    assert replayed == {None: 1, "true": 49}
    await chorus.is_quiet()
    assert await ada.balance() == "70.00"
    assert len((await ada.sees("orders", "/order"))["items"]) == 1
    await ada.mail(1)


async def test_a_key_belongs_to_one_user_and_one_request(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    ben = await chorus.customer("Ben", deposit="100.00")
    key = str(uuid7())
    await ada.order("30.00", key=key)
    other = await ada.ask_for_order("31.00", key=key)
    assert (other.status_code, other.json()["reason"]) == (422, "idempotency_key_reused")
    await ben.order("30.00", key=key)
    await chorus.is_quiet()
    assert (await ada.balance(), await ben.balance()) == ("70.00", "70.00")


async def test_concurrent_withdrawals_and_orders_never_overdraw_an_account(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    answers, _ = await asyncio.gather(
        asyncio.gather(*(ada.withdraw("1.00") for _ in range(120))),
        asyncio.gather(*(ada.order("1.00") for _ in range(120))),
    )
    withdrawn = sum(answer.status_code == 201 for answer in answers)
    assert all(answer.status_code in {201, 403} for answer in answers)
    await chorus.is_quiet()
    paid = await ada.sees("orders", "/order?status=paid&limit=200")
    assert withdrawn + len(paid["items"]) == 100
    assert await ada.balance() == "0.00"
