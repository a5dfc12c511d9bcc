"""What orders does. Each function takes a transaction and a list, and returns results in the list's order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from apps.orders.admission import admission
from apps.orders.models import Customer, Order
from apps.orders.problems import OrderAlreadyRejected
from apps.orders.watch import changes
from chassis.database.transaction import Transaction
from chassis.web.problems import NotFound
from events.base import Cause, Heard
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import UserRegistered, UserUpdated

Outcome = TypeVar("Outcome", PaymentSucceeded, PaymentRejected)


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """A wish to order for `total` minor units."""

    user_id: UUID
    total: int
    because: Cause


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """A wish to cancel. `owner` is whose order it must be; None for an operator."""

    order_id: UUID
    owner: UUID | None
    because: Cause


async def remember_customers(
    tx: Transaction, heard: Sequence[Heard[UserRegistered] | Heard[UserUpdated]]
) -> None:
    """Remember users as they are now."""
    await tx.upsert_newer(Customer.copies(e.event.user for e in heard))


async def place_orders(tx: Transaction, wishes: Sequence[PlaceOrder]) -> list[Order]:
    """Accept orders; billing decides about them."""
    customers = await tx.load(Customer, [wish.user_id for wish in wishes])
    known = {id: customer.state() for id, customer in customers.items()}
    orders = []
    for wish in wishes:
        order = Order.place(tx.new_id(), wish.user_id, wish.total, tx.now)
        event = OrderPlaced(order=order.state(), customer=known.get(wish.user_id))
        tx.publish(event, wish.because)
        orders.append(order)
    await tx.insert(orders)
    return orders


async def mark_paid(tx: Transaction, heard: Sequence[Heard[PaymentSucceeded]]) -> None:
    """Billing has debited these orders. One that was cancelled meanwhile stays so; billing gives the money back."""
    await _settle(
        tx, heard, lambda order, _: OrderPaid(order=order.state()) if order.pay(tx.now) else None
    )


async def mark_rejected(tx: Transaction, heard: Sequence[Heard[PaymentRejected]]) -> None:
    """Billing has refused these orders."""
    await _settle(
        tx,
        heard,
        lambda order, event: (
            OrderRejected(order=order.state()) if order.reject(event.reason, tx.now) else None
        ),
    )


async def mark_refunded(tx: Transaction, heard: Sequence[Heard[PaymentRefunded]]) -> None:
    """Billing has given the money back."""
    orders = await tx.lock(Order, [e.event.order.id for e in heard])
    for one in heard:
        orders[one.event.order.id].refunded_at = one.event.refund.created_at
    await tx.update(list(orders.values()), "refunded_at")


async def cancel_orders(
    tx: Transaction, wishes: Sequence[CancelOrder]
) -> list[Order | NotFound | OrderAlreadyRejected]:
    """Cancel what is pending or paid; cancelling again changes nothing and gives the same answer."""
    orders = await tx.lock(Order, [wish.order_id for wish in wishes])
    results: list[Order | NotFound | OrderAlreadyRejected] = []
    changed: dict[UUID, Order] = {}
    for wish in wishes:
        order = orders.get(wish.order_id)
        if order is None or wish.owner not in (None, order.user_id):
            results.append(NotFound("There is no such order."))
            continue
        outcome = order.cancel(tx.now)
        if outcome is True:
            changed[order.id] = order
            tx.publish(OrderCancelled(order=order.state()), wish.because)
        results.append(outcome if isinstance(outcome, OrderAlreadyRejected) else order)
    await _save(tx, changed)
    return results


async def _settle(
    tx: Transaction,
    heard: Sequence[Heard[Outcome]],
    decide: Callable[[Order, Outcome], OrderPaid | OrderRejected | None],
) -> None:
    orders = await tx.lock(Order, [e.event.order.id for e in heard])
    changed: dict[UUID, Order] = {}
    for one in heard:
        # An outcome can only come after its order: the order was committed before OrderPlaced left.
        order = orders[one.event.order.id]
        event = decide(order, one.event)
        if event is not None:
            changed[order.id] = order
            tx.publish(event, one.because())
    placed = [order.placed_at for order in orders.values()]
    tx.after_commit(lambda: admission.settled(placed, tx.now))
    await _save(tx, changed)


async def _save(tx: Transaction, changed: dict[UUID, Order]) -> None:
    orders = list(changed.values())
    await tx.update(orders, "status", "reason", "settled_at", "version")
    tx.after_commit(lambda: changes.happened(orders))
