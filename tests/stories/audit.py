"""What must hold whatever has happened: the invariants, in one table.

`gather` takes the facts down, `findings` thinks about them, without I/O: so the audit itself can be tested, by
spoiling what was gathered.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from events.billing import AccountState
from events.bus.topology import HEARD_BY
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected, OrderState
from events.users import UserState
from tests.stories.audit_letters import every_outcome_has_its_letter
from tests.stories.audit_money import (
    every_refusal_was_justified,
    ledger_adds_up,
    no_balance_was_ever_below_zero,
    paid_orders_and_debits_are_the_same,
)
from tests.stories.facts import Facts, Findings, Rows, by_id


def findings(facts: Facts) -> list[str]:
    """What is wrong, a line each; empty if every invariant holds."""
    return [f"{name}: {found}" for name, holds in INVARIANTS.items() for found in holds(facts)]


def every_accepted_order_has_one_outcome(facts: Facts) -> Findings:
    """And each order was asked for once; what was refused has no order."""
    orders = by_id(facts.orders)
    placed = facts.told_of(OrderPlaced)
    told = {kind: facts.told_of(kind) for kind in (OrderPaid, OrderRejected, OrderCancelled)}
    for id, order in orders.items():
        events = tuple(told[kind][id] for kind in (OrderPaid, OrderRejected, OrderCancelled))
        if placed[id] != 1 or events not in OUTCOMES.get(order["status"], ()):
            yield f"order {id} is {order['status']}, placed {placed[id]} times, told of as {events}"
    yield from (f"order {id} was told of and does not exist" for id in placed - orders.keys())
    yield from _attempts(facts, orders)


OUTCOMES: Final = {
    "paid": {(1, 0, 0)},
    "rejected": {(0, 1, 0)},
    "cancelled": {(0, 0, 1), (1, 0, 1)},
}
"""How often OrderPaid, OrderRejected and OrderCancelled are told of an order in each status."""


def _attempts(facts: Facts, orders: Mapping[UUID, dict[str, Any]]) -> Findings:
    by_flow = {
        heard.cause.correlation_id: heard.event.order.id
        for heard in facts.events
        if isinstance(heard.event, OrderPlaced)
    }
    wishes: dict[tuple[UUID, str], set[UUID]] = defaultdict(set)
    for attempt in facts.attempts:
        made = by_flow.pop(attempt.correlation_id, None)
        if attempt.refused:
            if made is not None:
                yield f"order {made} exists although it was refused: {attempt}"
            continue
        wish = wishes[attempt.user_id, attempt.key]
        wish |= {id for id in (made, attempt.order_id) if id is not None}
        for id in wish:
            order = orders.get(id)
            if order is None:
                yield f"order {id} was accepted and is lost: {attempt}"
            elif (order["user_id"], order["total"]) != (attempt.user_id, attempt.total):
                yield f"order {id} is another one than was asked for: {attempt}"
    yield from (f"{key}: one wish, orders {ids}" for key, ids in wishes.items() if len(ids) > 1)
    yield from (f"order {id} was never asked for" for id in by_flow.values())


def every_projection_equals_its_owners_state(facts: Facts) -> Findings:
    """Copies of users and keys, what events told last of an aggregate, and orders as billing knows them."""
    for service, copies in facts.copies.items():
        if copies != facts.users:
            wrong = [row for row in (*copies, *facts.users) if copies.count(row) != 1]
            yield f"{service} knows other users than users does: {wrong[:4]}"
    for service, keys in facts.keys.items():
        if keys != facts.keys["users"]:
            yield f"{service} knows other keys than users does"
    states = {"user": facts.users, "order": facts.orders, "account": facts.accounts}
    for name, owned in states.items():
        yield from _last_told(name, owned, _newest_states(facts, name))
    orders = by_id(facts.orders)
    for charge in facts.charges:
        order = orders.get(charge["order_id"], {})
        if (order.get("user_id"), order.get("total")) != (charge["user_id"], charge["amount"]):
            yield f"{charge} is not about {order}"


def _last_told(
    name: str, owned: Rows, newest: Mapping[UUID, OrderState | UserState | AccountState]
) -> Findings:
    if newest.keys() != {row["id"] for row in owned}:
        yield f"events tell of {len(newest)} {name}s, there are {len(owned)}"
    for row in owned:
        if (state := newest.get(row["id"])) is None:
            continue
        told = {field: value for field, value in state if field in row}
        if told != {field: row[field] for field in told}:
            yield f"the last event about {name} {row['id']} tells {told}, it is {row}"


def _newest_states(facts: Facts, name: str) -> dict[UUID, OrderState | UserState | AccountState]:
    newest: dict[UUID, OrderState | UserState | AccountState] = {}
    for heard in facts.events:
        state = getattr(heard.event, name, None)
        if state is not None and (
            state.id not in newest or newest[state.id].version < state.version
        ):
            newest[state.id] = state
    return newest


def nothing_is_left_over(facts: Facts) -> Findings:
    """Outboxes, queues and dead letters are empty."""
    yield from (
        f"{n} events in the outbox of {service}" for service, n in facts.outboxes.items() if n
    )
    yield from (f"{n} messages in {queue}" for queue, n in facts.queues.items() if n)


def what_was_told_was_heard(facts: Facts) -> Findings:
    """Every event by everyone who hears it; and nobody has heard what nobody has told."""
    for service, inbox in facts.inboxes.items():
        told = {heard.id for heard in facts.events if isinstance(heard.event, HEARD_BY[service])}
        if lost := told - inbox:
            yield f"{service} has never heard {lost}"
        if invented := inbox - told:
            yield f"{service} has heard {invented}, which nobody has told"


INVARIANTS: Final[dict[str, Callable[[Facts], Findings]]] = {
    "1 the ledger adds up": ledger_adds_up,
    "2 no balance was ever below zero": no_balance_was_ever_below_zero,
    "3 every accepted order has one outcome": every_accepted_order_has_one_outcome,
    "4 paid orders and debits are the same": paid_orders_and_debits_are_the_same,
    "5 every refusal was justified": every_refusal_was_justified,
    "6 every outcome has its letter": every_outcome_has_its_letter,
    "7 every projection equals its owner's state": every_projection_equals_its_owners_state,
    "8 nothing is left over": nothing_is_left_over,
    "9 what was told was heard": what_was_told_was_heard,
}
