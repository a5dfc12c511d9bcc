"""The use cases of orders. Each takes a transaction and a list, and returns the results in the same order.

An order that an event of billing is about exists: OrderPlaced is published after its COMMIT.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from apps.orders.models import Customer, Order, OrderAlreadyRejected, Outcome
from chassis.database.transaction import Transaction
from chassis.messaging.contradictions import report
from chassis.web.operators import OperatorAction
from chassis.web.problems import NotFound
from events.base import ByOperator, Causation, Envelope
from events.billing import PaymentRefunded, PaymentRejected, PaymentSucceeded
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import UserRegistered, UserUpdated


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """Place an order for `total` minor units."""

    user_id: UUID
    total: int
    cause: Causation


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Cancel an order of `owner`; None for an operator, who may cancel any."""

    order_id: UUID
    owner: UUID | None
    cause: Causation
    by_operator: ByOperator | None = None


async def store_customers(
    tx: Transaction, received: Sequence[Envelope[UserRegistered] | Envelope[UserUpdated]]
) -> None:
    """Store users as customers. Placing an order does not read them: the token proves its user."""
    users = [e.event.user for e in received]
    await tx.upsert_newer([Customer(id=user.id, version=user.version) for user in users])


async def place_orders(tx: Transaction, commands: Sequence[PlaceOrder]) -> list[Order]:
    """Place orders; they are pending until billing has decided about their payment."""
    orders = []
    for command in commands:
        order = Order.place(tx.new_id(), command.user_id, command.total, tx.now)
        tx.publish(OrderPlaced(order=order.state()), command.cause)
        orders.append(order)
    await tx.insert(orders)
    return orders


async def mark_paid(tx: Transaction, received: Sequence[Envelope[PaymentSucceeded]]) -> None:
    """Mark orders as paid. A cancelled order stays cancelled: billing refunds it."""
    orders = await tx.lock(Order, [e.event.order.id for e in received])
    for one in received:
        order = orders[one.event.order.id]
        order.require(one.event.order)
        if _settle(tx, order, Outcome("paid", one.event.payment.created_at)):
            tx.publish(OrderPaid(order=order.state()), one.causation())
    await _save(tx, orders)


async def mark_rejected(tx: Transaction, received: Sequence[Envelope[PaymentRejected]]) -> None:
    """Mark orders as rejected. A cancelled order stays cancelled."""
    orders = await tx.lock(Order, [e.event.order.id for e in received])
    for one in received:
        order, reason = orders[one.event.order.id], one.event.reason
        order.require(one.event.order, cancelled=reason == "order_cancelled")
        if _settle(tx, order, Outcome("rejected", one.time, reason)):
            tx.publish(OrderRejected(order=order.state()), one.causation())
    await _save(tx, orders)


async def mark_refunded(tx: Transaction, received: Sequence[Envelope[PaymentRefunded]]) -> None:
    """Mark the payments of cancelled orders as refunded."""
    orders = await tx.lock(Order, [e.event.order.id for e in received])
    for one in received:
        order, event = orders[one.event.order.id], one.event
        order.require(event.order, cancelled=True)
        if not order.refund(event.refund.created_at, event.payment.created_at):
            _report(tx, order, order.status, "refunded")
    await _save(tx, orders)


async def cancel_orders(
    tx: Transaction, commands: Sequence[CancelOrder]
) -> list[Order | NotFound | OrderAlreadyRejected]:
    """Cancel orders that are pending or paid; cancelling again changes nothing and gives the same result."""
    orders = await tx.lock(Order, [command.order_id for command in commands])
    results: list[Order | NotFound | OrderAlreadyRejected] = []
    actions: list[OperatorAction] = []
    for command in commands:
        order = orders.get(command.order_id)
        if order is None or command.owner not in (None, order.user_id):
            results.append(NotFound("There is no such order."))
            continue
        outcome = order.cancel(tx.now)
        if outcome is True:
            event = OrderCancelled(order=order.state(), by_operator=command.by_operator)
            tx.publish(event, command.cause)
            flow = command.cause.correlation_id
            actions += OperatorAction.of(tx, command.by_operator, "cancel", order.id, flow)
        results.append(outcome if isinstance(outcome, OrderAlreadyRejected) else order)
    await _save(tx, orders)
    await tx.insert(actions)
    return results


def _settle(tx: Transaction, order: Order, outcome: Outcome) -> bool:
    """Record or follow a decision of billing's. Returns whether the order's status changed."""
    return order.settle(outcome, tx.now) or _correct(tx, order, outcome)


def _correct(tx: Transaction, order: Order, outcome: Outcome) -> bool:
    """Follow a decision about an order that is not pending; report one that contradicts another."""
    was, contradicts = order.status, order.contradicts(outcome)
    changed = order.correct(outcome, tx.now)
    if contradicts:
        _report(tx, order, was, outcome.status)
    return changed


def _report(tx: Transaction, order: Order, was: str, received: str) -> None:
    report(tx, "orders", order_id=order.id, recorded=was, received=received, followed=order.status)


async def _save(tx: Transaction, orders: dict[UUID, Order]) -> None:
    changed = list(orders.values())
    columns = ("status", "reason", "settled_at", "refunded_at", "version", "decided_at")
    await tx.update(changed, *columns, "corrections")
