"""The invariant about projections: every copy equals what its owner has."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from uuid import UUID

from events.billing import AccountState
from events.orders import OrderState
from events.users import UserState
from ops.audit.facts import Account, Facts, Order, User, by
from ops.audit.findings import Finding, Findings, wrong

State = OrderState | UserState | AccountState


def every_projection_equals_its_owners_state(facts: Facts) -> Findings:
    """Copies of users and keys, orders as billing knows them, and what events told last of an aggregate."""
    users = by("id", facts.users)
    for service, copies in facts.copies.items():
        known = by("id", copies)
        for id in users.keys() | known.keys():
            mine, own = known.get(id), users.get(id)
            if mine != own and not facts.in_flight(facts.changed.get(id)):
                yield wrong("user", id, f"is {own}; {service} knows {mine}")
    for service, keys in facts.keys.items():
        if keys != facts.keys["users"]:
            yield Finding(f"{service} knows other signing keys than users does")
    orders = by("id", facts.orders)
    for charge in facts.charges:
        order = orders.get(charge.order_id)
        if order and (order.user_id, order.total) != (charge.user_id, charge.amount):
            yield wrong(
                "order", order.id, f"is of {order.total}, billing knows it as of {charge.amount}"
            )
    if facts.journal is not None:
        yield from _last_told("user", facts.users, _newest(facts, "user"))
        yield from _last_told("order", facts.orders, _newest(facts, "order"))
        yield from _last_told("account", facts.accounts, _newest(facts, "account"))


def _last_told(
    name: str, owned: Sequence[Order | User | Account], newest: Mapping[UUID, State]
) -> Findings:
    if newest.keys() != {row.id for row in owned}:
        yield Finding(f"events tell of {len(newest)} {name}s, there are {len(owned)}")
    for row in owned:
        if (state := newest.get(row.id)) is None:
            continue
        own = asdict(row)
        told = {field: value for field, value in state if field in own}
        if told != {field: own[field] for field in told}:
            yield Finding(f"the last event about {name} {row.id} tells {told}, it is {row}")


def _newest(facts: Facts, name: str) -> dict[UUID, State]:
    newest: dict[UUID, State] = {}
    for received in facts.journal or ():
        state: State | None = getattr(received.event, name, None)
        if state is not None and (
            state.id not in newest or newest[state.id].version < state.version
        ):
            newest[state.id] = state
    return newest
