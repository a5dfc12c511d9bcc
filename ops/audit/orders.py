"""The invariant about orders: each has one outcome, and is what a client was answered."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from events.base import Envelope, Event
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from ops.audit.facts import Attempt, Facts, History, Order, by
from ops.audit.findings import Findings, wrong

VERSIONS: Final = {"pending": {1}, "paid": {2}, "rejected": {2}, "cancelled": {2, 3}}
"""An order's version in each status: one outcome is one step, and a paid order may be cancelled."""

OUTCOMES: Final = {
    "paid": {(1, 0, 0)},
    "rejected": {(0, 1, 0)},
    "cancelled": {(0, 0, 1), (1, 0, 1)},
}
"""How often OrderPaid, OrderRejected and OrderCancelled are told of an order in each status."""


def every_accepted_order_has_one_outcome(facts: Facts) -> Findings:
    """And each order was asked for once; what was refused has no order."""
    for order in facts.orders:
        if order.status == "pending" and not facts.in_flight(order.placed_at):
            yield wrong("order", order.id, f"is pending since {order.placed_at:%Y-%m-%d %H:%M:%S}")
        settled = order.settled_at is not None
        if order.version not in VERSIONS[order.status] or settled == (order.status == "pending"):
            yield wrong("order", order.id, f"is {order.status} in version {order.version}")
        if order.refunded_at is not None and order.status != "cancelled":
            yield wrong("order", order.id, f"is {order.status} and was refunded")
    if facts.journal is not None:
        yield from _told(facts, facts.journal)
    if facts.history is not None:
        yield from _answers(facts, facts.history)


def told_of(facts: Facts, kind: type[Event]) -> Counter[UUID]:
    """How many different events of a kind there are about each aggregate."""
    retold = facts.history.retold if facts.history else ()
    return Counter(
        UUID(received.event.subject)
        for received in facts.journal or ()
        if isinstance(received.event, kind) and received.id not in retold
    )


def _told(facts: Facts, journal: Iterable[Envelope[Event]]) -> Findings:
    orders = by("id", facts.orders)
    placed = told_of(facts, OrderPlaced)
    told = [told_of(facts, kind) for kind in (OrderPaid, OrderRejected, OrderCancelled)]
    for id, order in orders.items():
        events = tuple(counted[id] for counted in told)
        if order.status != "pending" and (
            placed[id] != 1 or events not in OUTCOMES.get(order.status, ())
        ):
            yield wrong("order", id, f"is {order.status}, placed {placed[id]} times, told {events}")
    for id in placed.keys() - orders.keys():
        yield wrong("order", id, "was told of and does not exist")
    if facts.history is not None:
        asked = {attempt.correlation_id for attempt in facts.history.attempts}
        for received in journal:
            if (
                isinstance(received.event, OrderPlaced)
                and received.cause.correlation_id not in asked
            ):
                yield wrong("order", received.event.order.id, "was never asked for")


def _answers(facts: Facts, history: History) -> Findings:
    orders = by("id", facts.accepted)
    wishes: dict[object, set[UUID]] = defaultdict(set)
    named = Counter(attempt.order_id for attempt in history.attempts if attempt.order_id)
    for number, attempt in enumerate(history.attempts):
        made = facts.flows.get(attempt.correlation_id or "")
        if attempt.refused:
            if made is not None:
                yield wrong("order", made, f"exists although it was refused: {attempt}")
            continue
        wish = wishes[(attempt.user_id, attempt.key) if attempt.key else number]
        wish |= {id for id in (made, attempt.order_id) if id is not None}
        if attempt.order_id is not None:
            yield from _is_there(attempt, attempt.order_id, orders.get(attempt.order_id))
            if attempt.key is None and named[attempt.order_id] > 1:
                yield wrong("order", attempt.order_id, "is the answer to two requests")
    for wish in wishes.values():
        if len(wish) > 1:
            for id in sorted(wish):
                yield wrong("order", id, f"stands for the same wish as {len(wish) - 1} others")
    yield from _strangers(facts, history)


def _is_there(attempt: Attempt, id: UUID, order: Order | None) -> Findings:
    if order is None:
        yield wrong("order", id, f"was accepted and is lost: {attempt}")
    elif (attempt.user_id or order.user_id, attempt.total or order.total) != (
        order.user_id,
        order.total,
    ):
        yield wrong("order", id, f"is another one than was asked for: {attempt}")


def _strangers(facts: Facts, history: History) -> Findings:
    """Orders that no answer named: each must be what a request may have placed that got no answer."""
    accepted = {
        (attempt.user_id, attempt.key) for attempt in history.attempts if attempt.order_id is not None
    }  # fmt: skip
    open_wishes = {
        (attempt.user_id, attempt.key or number): attempt
        for number, attempt in enumerate(history.attempts)
        if attempt.open and (attempt.key is None or (attempt.user_id, attempt.key) not in accepted)
    }
    left = Counter((wish.user_id, wish.total) for wish in open_wishes.values())
    for order in facts.strangers:
        for about in ((order.user_id, order.total), (order.user_id, None), (None, None)):
            if left[about] > 0:
                left[about] -= 1
                break
        else:
            yield wrong("order", order.id, f"of {order.total} was never asked for")
