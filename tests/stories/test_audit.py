"""The rules on snapshots are checked: a snapshot in which all is well passes, and each way to spoil it is found.

What `chorus audit` finds in databases alone is spoiled in `test_audit_live`.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Final

import pytest
from uuid_utils.compat import uuid7

from bench.answers import Attempt, History
from events.orders import OrderPaid, OrderPlaced
from tests.stories.conftest import Stacks
from tests.stories.snapshot import Row, Snapshot, snapshot_of
from tests.stories.snapshot_rules import violations


@pytest.fixture(scope="module")
async def taken(stacks: Stacks) -> Snapshot:
    """The snapshot after orders that were paid, refused and cancelled."""
    chorus = await stacks.take()
    ada = await chorus.customer(deposit="100.00")
    paid, cancelled, refused = [await ada.order(total) for total in ("30", "20", "500")]
    for order_id in (paid, cancelled, refused):
        await ada.settled(order_id)
    await ada.cancel(cancelled)
    assert (await ada.ask_for_order("0.00")).status_code == 422
    await chorus.is_quiet()
    return await snapshot_of(chorus)


@pytest.fixture
def snapshot(taken: Snapshot) -> Snapshot:
    """A copy whose rows can be spoiled."""
    rows = {name: copy.deepcopy(getattr(taken, name)) for name in ("users", "orders", "accounts")}
    return dataclasses.replace(
        taken,
        **rows,
        notifications=copy.deepcopy(taken.notifications),
        inboxes={service: set(ids) for service, ids in taken.inboxes.items()},
        events=list(taken.events),
    )


def the(rows: list[Row], **wanted: Any) -> Row:
    """The last row that has these values."""
    return next(
        row for row in reversed(rows) if all(getattr(row, k) == v for k, v in wanted.items())
    )


def change(row: Row, **values: Any) -> None:
    vars(row).update(values)


def publish_again(snapshot: Snapshot, kind: type) -> None:
    """The same state as another event."""
    last = next(one for one in reversed(snapshot.events) if isinstance(one.event, kind))
    snapshot.events.append(last._replace(id=uuid7()))


def refuse_all(snapshot: Snapshot) -> None:
    attempts = [
        dataclasses.replace(one, order_id=None, refused=True) for one in snapshot.history.attempts
    ]
    snapshot.history = History(attempts)


def deliver(snapshot: Snapshot, arrived: Any) -> None:
    snapshot.mail = dataclasses.replace(snapshot.mail, arrived=arrived)


Spoil = Callable[[Snapshot], object]

SPOILED: Final[dict[str, tuple[str, Spoil]]] = {
    "an order has two outcomes": ("3", lambda s: publish_again(s, OrderPaid)),
    "an order was placed twice": ("3", lambda s: publish_again(s, OrderPlaced)),
    "an order is lost": ("3", lambda s: s.orders.remove(the(s.orders, status="rejected"))),
    "an order was never asked for": ("3", lambda s: setattr(s, "history", History([]))),
    "an order was asked for by another": (
        "3",
        lambda s: setattr(s, "history", History([Attempt(correlation_id="another")])),
    ),
    "a refused request has an order": ("3", refuse_all),
    "an address belongs to another user": (
        "6",
        lambda s: change(the(s.notifications), address="eve@x.test"),
    ),
    "a notification was not sent": ("6", lambda s: change(the(s.notifications), status="failed")),
    "an e-mail did not arrive": ("6", lambda s: deliver(s, s.mail.arrived[1:])),
    "an e-mail arrived twice": (
        "6",
        lambda s: deliver(s, [*s.mail.arrived, s.mail.arrived[-1]]),
    ),
    "an e-mail belongs to no notification": (
        "6",
        lambda s: deliver(s, [*s.mail.arrived, ("?", ("eve@x.test",), "?")]),
    ),
    "events have another balance": ("7", lambda s: change(the(s.accounts), balance=7)),
    "events have another status": ("7", lambda s: change(the(s.orders), status="pending")),
    "events have another name": ("7", lambda s: change(the(s.users), name="Eve")),
    "events are about a user who is missing": ("7", lambda s: s.users.pop()),
    "an event was not received": ("9", lambda s: s.inboxes["billing"].pop()),
    "an event was received and not published": ("9", lambda s: s.inboxes["billing"].add(uuid7())),
}


def test_a_consistent_snapshot_has_no_findings(snapshot: Snapshot) -> None:
    assert violations(snapshot) == []


@pytest.mark.parametrize(("invariant", "spoil"), SPOILED.values(), ids=SPOILED)
def test_an_inconsistency_is_found(snapshot: Snapshot, invariant: str, spoil: Spoil) -> None:
    spoil(snapshot)
    assert [found for found in violations(snapshot) if found.startswith(f"{invariant} ")]


def test_every_rule_on_snapshots_is_violated_here() -> None:
    assert {invariant for invariant, _ in SPOILED.values()} == {"3", "6", "7", "9"}
