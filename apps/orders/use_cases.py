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
from events.base import Causation, Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import UserRegistered, UserUpdated

Outcome = TypeVar("Outcome", PaymentSucceeded, PaymentRejected)


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """A wish to order for `total` minor units."""

    user_id: UUID
    total: int
    cause: Causation


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """A wish to cancel. `owner` is whose order it must be; None for an operator."""

    order_id: UUID
    owner: UUID | None
    cause: Causation


async def remember_customers(
    tx: Transaction, received: Sequence[Envelope[UserRegistered] | Envelope[UserUpdated]]
) -> None:
    """Remember users as they are now."""
    await tx.upsert_newer(Customer.copies(e.event.user for e in received))


async def place_orders(tx: Transaction, commands: Sequence[PlaceOrder]) -> list[Order]:
    """Accept orders; billing decides about them."""
    customers = await tx.load(Customer, [command.user_id for command in commands])
    known = {id: customer.state() for id, customer in customers.items()}
    orders = []
    for command in commands:
        order = Order.place(tx.new_id(), command.user_id, command.total, tx.now)
        event = OrderPlaced(order=order.state(), customer=known.get(command.user_id))
        tx.publish(event, command.cause)
        orders.append(order)
    await tx.insert(orders)
    return orders


async def mark_paid(tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]) -> None:
    """Billing has debited these orders. One that was cancelled meanwhile stays so; billing gives the money back."""
    await _settle(
        tx, received, lambda order, _: OrderPaid(order=order.state()) if order.pay(tx.now) else None
    )


async def mark_rejected(tx: Transaction, received: Sequence[Envelope[PaymentRejected]]) -> None:
    """Billing has refused these orders."""
    await _settle(
        tx,
        received,
        lambda order, event: (
            OrderRejected(order=order.state()) if order.reject(event.reason, tx.now) else None
        ),
    )


async def mark_refunded(tx: Transaction, received: Sequence[Envelope[PaymentRefunded]]) -> None:
    """Billing has given the money back."""
    orders = await tx.lock(Order, [e.event.order.id for e in received])
    for one in received:
        orders[one.event.order.id].refunded_at = one.event.refund.created_at
    await tx.update(list(orders.values()), "refunded_at")


async def cancel_orders(
    tx: Transaction, commands: Sequence[CancelOrder]
) -> list[Order | NotFound | OrderAlreadyRejected]:
    """Cancel what is pending or paid; cancelling again changes nothing and gives the same answer."""
    orders = await tx.lock(Order, [command.order_id for command in commands])
    results: list[Order | NotFound | OrderAlreadyRejected] = []
    changed: dict[UUID, Order] = {}
    for command in commands:
        order = orders.get(command.order_id)
        if order is None or command.owner not in (None, order.user_id):
            results.append(NotFound("There is no such order."))
            continue
        outcome = order.cancel(tx.now)
        if outcome is True:
            changed[order.id] = order
            tx.publish(OrderCancelled(order=order.state()), command.cause)
        results.append(outcome if isinstance(outcome, OrderAlreadyRejected) else order)
    await _save(tx, changed)
    return results


async def _settle(
    tx: Transaction,
    received: Sequence[Envelope[Outcome]],
    decide: Callable[[Order, Outcome], OrderPaid | OrderRejected | None],
) -> None:
    orders = await tx.lock(Order, [e.event.order.id for e in received])
    changed: dict[UUID, Order] = {}
    for one in received:
        # An outcome can only come after its order: the order was committed before OrderPlaced left.
        order = orders[one.event.order.id]
        event = decide(order, one.event)
        if event is not None:
            changed[order.id] = order
            tx.publish(event, one.causation())
    placed = [order.placed_at for order in orders.values()]
    tx.after_commit(lambda: admission.settled(placed, tx.now))
    await _save(tx, changed)


async def _save(tx: Transaction, changed: dict[UUID, Order]) -> None:
    orders = list(changed.values())
    await tx.update(orders, "status", "reason", "settled_at", "version")
    tx.after_commit(lambda: changes.happened(orders))
