"""Each order is decided once, and the debit of a cancelled order is refunded."""

import random
from uuid import UUID

import pytest

from events.billing import (
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.orders import OrderCancelled, OrderPlaced
from tests.support.builders import a_user, an_order, cancelled, outbox_row
from tests.support.harness import RunningService
from tests.support.purse import balance, open_with


async def test_a_covered_order_is_debited_and_published_with_its_payment(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    order = an_order(total="30.00", user=user)
    await billing.processes(OrderPlaced(order=order))
    [succeeded] = billing.published_of(PaymentSucceeded)
    assert succeeded.order == order
    assert (succeeded.payment.order_id, succeeded.payment.amount) == (order.id, 30_00)
    assert (succeeded.account.balance, succeeded.account.version) == (70_00, 3)
    assert await balance(billing, user) == "70.00"
    async with billing.http(user) as ada:
        [line, _] = (await ada.get(f"/account/{user.id}/transactions")).json()["items"]
    assert (line["kind"], line["amount"], line["orderId"]) == ("payment", "30.00", str(order.id))


async def test_a_rejection_is_published_with_the_balance_at_that_moment(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "29.99")
    order = an_order(total="30.00", user=user)
    await billing.processes(OrderPlaced(order=order))
    [rejected] = billing.published_of(PaymentRejected)
    assert rejected.order == order
    assert rejected.reason == "insufficient_funds"
    assert rejected.account.balance == 29_99
    await open_with(billing, user, "1000.00")  # too late: the decision is final
    await billing.processes(OrderPlaced(order=order))
    [charge] = await billing.rows("SELECT * FROM charges WHERE order_id = $1", order.id)
    assert (charge["status"], charge["reason"]) == ("rejected", "insufficient_funds")
    assert (charge["balance"], charge["account_version"]) == (29_99, 2)
    assert len(billing.published_of(PaymentRejected)) == 1
    assert billing.published_of(PaymentSucceeded) == []


async def test_a_small_order_behind_a_rejected_large_one_is_paid(billing: RunningService) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    totals = ["60.00", "50.00", "40.00", "0.01"]
    rows = [outbox_row(OrderPlaced(order=an_order(total=total, user=user))) for total in totals]
    await billing.processes(*rows, as_batch=True)
    first, second, third, fourth = (UUID(row.attributes["subject"]) for row in rows)
    assert [e.order.id for e in billing.published_of(PaymentSucceeded)] == [first, third]
    assert [e.order.id for e in billing.published_of(PaymentRejected)] == [second, fourth]
    assert await balance(billing, user) == "0.00"


async def test_an_order_of_exactly_the_balance_is_paid(billing: RunningService) -> None:
    user = a_user()
    await open_with(billing, user, "30.00")
    await billing.processes(OrderPlaced(order=an_order(total="30.00", user=user)))
    assert await balance(billing, user) == "0.00"


# Events that contradict billing's own records.


@pytest.mark.parametrize("change", ["user", "total"])
@pytest.mark.parametrize("event", [OrderPlaced, OrderCancelled])
async def test_an_event_that_contradicts_the_charge_of_its_order_is_dead_lettered(
    billing: RunningService, event: type[OrderPlaced | OrderCancelled], change: str
) -> None:
    """With the right to publish for orders one can have neither another's money nor another amount."""
    ada, eve = a_user(), a_user()
    for user in (ada, eve):
        await open_with(billing, user, "100.00")
    order = an_order(total="30.00", user=ada)
    await billing.processes(OrderPlaced(order=order))
    forged = {"user_id": eve.id} if change == "user" else {"total": 90_00}
    state = cancelled(order) if event is OrderCancelled else order
    await billing.receives(event(order=state.model_copy(update=forged)))
    [dead_letter] = await billing.dead_letters()
    assert "ContradictionError" in str(dead_letter.headers["dead_letter_error"])
    assert (await balance(billing, ada), await balance(billing, eve)) == ("70.00", "100.00")
    assert billing.published_of(PaymentRefunded) == []
    await billing.processes(OrderCancelled(order=cancelled(order)))
    assert (await balance(billing, ada), await balance(billing, eve)) == ("100.00", "100.00")


# Cancellations.


async def test_an_order_cancelled_twice_is_refunded_once(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    order = an_order(total="30.00", user=user)
    await billing.processes(OrderPlaced(order=order))
    again = outbox_row(OrderCancelled(order=cancelled(order)))
    await billing.processes(OrderCancelled(order=cancelled(order)), again, again)
    [succeeded] = billing.published_of(PaymentSucceeded)
    [refunded] = billing.published_of(PaymentRefunded)
    assert refunded.payment == succeeded.payment
    assert (refunded.refund.payment_id, refunded.refund.amount) == (succeeded.payment.id, 30_00)
    assert refunded.order == cancelled(order)
    assert refunded.account.balance == 100_00
    assert await balance(billing, user) == "100.00"


async def test_an_order_cancelled_before_it_arrives_is_not_charged(
    billing: RunningService,
) -> None:
    user = a_user()
    await open_with(billing, user, "100.00")
    order = an_order(total="30.00", user=user)
    await billing.processes(OrderCancelled(order=cancelled(order)))
    assert billing.published_of(PaymentRefunded) == []
    await billing.processes(OrderPlaced(order=order))
    [rejected] = billing.published_of(PaymentRejected)
    assert rejected.reason == "order_cancelled"
    await billing.processes(OrderPlaced(order=order), OrderCancelled(order=cancelled(order)))
    assert len(billing.published_of(PaymentRejected)) == 1
    assert billing.published_of(PaymentSucceeded) == []
    assert billing.published_of(PaymentRefunded) == []
    assert await balance(billing, user) == "100.00"


async def test_the_cancellation_of_a_rejected_order_changes_nothing(
    billing: RunningService,
) -> None:
    user = a_user()
    order = an_order(total="30.00", user=user)
    await billing.processes(OrderPlaced(order=order))
    await billing.processes(OrderCancelled(order=cancelled(order)))
    assert billing.published_of(PaymentRefunded) == []
    assert await balance(billing, user) == "0.00"


async def test_a_concurrent_order_and_cancellation_leave_the_balance_unchanged(
    billing: RunningService,
) -> None:
    """Each order is either paid and refunded, or never charged."""
    user = a_user()
    await open_with(billing, user, "1000.00")
    orders = [an_order(total="10.00", user=user) for _ in range(60)]
    events = [outbox_row(OrderPlaced(order=order)) for order in orders]
    events += [outbox_row(OrderCancelled(order=cancelled(order))) for order in orders]
    random.Random(7).shuffle(events)
    await billing.processes(*events)
    paid = {event.order.id for event in billing.published_of(PaymentSucceeded)}
    refunded = {event.order.id for event in billing.published_of(PaymentRefunded)}
    rejected = {event.order.id for event in billing.published_of(PaymentRejected)}
    assert paid == refunded
    assert rejected == {order.id for order in orders} - paid
    assert await balance(billing, user) == "1000.00"
