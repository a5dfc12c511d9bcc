"""Billing, restored to an earlier moment, decides otherwise than before: the order follows, and nothing is silent."""

from collections.abc import Callable

import pytest

from events.base import Event
from events.orders import OrderPaid, OrderRejected, OrderState
from tests.support.builders import (
    a_user,
    cancelled,
    outbox_row,
    payment_refunded,
    payment_rejected,
    payment_succeeded,
)
from tests.support.contradicted import reported
from tests.support.harness import RunningService
from tests.support.shopping import cancel, place, view


async def test_a_paid_order_that_billing_rejects_later_is_rejected(orders: RunningService) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_succeeded(order))
    with reported("orders") as entries:
        await orders.processes(payment_rejected(order))
    [entry] = entries
    assert (entry["order_id"], entry["log_level"]) == (str(order.id), "error")
    assert (entry["recorded"], entry["received"], entry["followed"]) == (
        "paid", "rejected", "rejected"
    )  # fmt: skip
    seen = await view(orders, order)
    assert (seen["status"], seen["reason"]) == ("rejected", "insufficient_funds")
    assert [e.order.version for e in orders.published_of(OrderPaid)] == [2]
    assert [e.order.version for e in orders.published_of(OrderRejected)] == [seen["version"]] == [3]


async def test_a_rejected_order_that_billing_charges_later_is_paid_and_may_be_cancelled(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_rejected(order))
    with reported("orders"):
        await orders.processes(payment_succeeded(order))
    assert (await view(orders, order))["status"] == "paid"
    assert (await cancel(orders, order)).status_code == 200
    await orders.processes(payment_refunded(cancelled(order)))
    seen = await view(orders, order)
    assert (seen["status"], seen["version"], seen["reason"]) == ("cancelled", 4, None)
    assert seen["refundedAt"] is not None


async def test_an_earlier_decision_that_arrives_late_is_reported_and_not_followed(
    orders: RunningService,
) -> None:
    order = await place(orders, a_user())
    late = outbox_row(payment_rejected(order))
    await orders.processes(payment_succeeded(order))
    with reported("orders") as entries:
        await orders.processes(late)
    assert [(e["received"], e["followed"]) for e in entries] == [("rejected", "paid")]
    assert (await view(orders, order))["status"] == "paid"


async def test_the_same_outcome_under_another_id_is_no_contradiction(
    orders: RunningService,
) -> None:
    paid, rejected = [await place(orders, a_user()) for _ in range(2)]
    with reported("orders", 0):
        for _ in range(2):
            await orders.processes(payment_succeeded(paid), payment_rejected(rejected))
    assert [(await view(orders, o))["version"] for o in (paid, rejected)] == [2, 2]


async def test_a_refund_that_billing_has_no_more_is_taken_back(orders: RunningService) -> None:
    order = await place(orders, a_user())
    await orders.processes(payment_succeeded(order))
    await cancel(orders, order)
    refund = payment_refunded(cancelled(order))
    await orders.processes(refund)
    with reported("orders", 2):
        await orders.processes(payment_rejected(order, reason="order_cancelled"))
        await orders.processes(refund)  # of a payment that is not in the ledger any more
    seen = await view(orders, order)
    assert (seen["status"], seen["version"], seen["refundedAt"]) == ("cancelled", 3, None)


def _of_another_user(order: OrderState) -> Event:
    return payment_succeeded(order.model_copy(update={"user_id": a_user().id}))


def _of_another_total(order: OrderState) -> Event:
    return payment_rejected(order.model_copy(update={"total": 1}))


def _refused_as_cancelled(order: OrderState) -> Event:
    return payment_rejected(order, reason="order_cancelled")


@pytest.mark.parametrize(
    "about", [_of_another_user, _of_another_total, _refused_as_cancelled, payment_refunded]
)
async def test_an_event_that_contradicts_what_orders_owns_is_dead_lettered(
    orders: RunningService, about: Callable[[OrderState], Event]
) -> None:
    order = await place(orders, a_user())
    with reported("orders"):
        await orders.receives(about(order))
        [dead_letter] = await orders.dead_letters()
    error = dead_letter.headers["dead_letter_error"]
    assert str(error).startswith(f"ContradictionError: order {order.id}")
    assert (await view(orders, order))["status"] == "pending"


@pytest.mark.parametrize("about", [_refused_as_cancelled, payment_refunded])
async def test_an_event_about_a_cancellation_is_processed_once_that_is_known(
    orders: RunningService, about: Callable[[OrderState], Event]
) -> None:
    """As after orders' own database was restored, and its cancellations came back from the journal."""
    order = await place(orders, a_user())
    row = outbox_row(about(order))
    await orders.receives(row)
    await orders.dead_letters()
    assert (await cancel(orders, order)).status_code == 200
    with reported("orders", 0):
        await orders.processes(row)
    seen = await view(orders, order)
    assert seen["status"] == "cancelled"
    assert (seen["refundedAt"] is not None) == (about is payment_refunded)
