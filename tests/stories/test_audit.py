"""The invariants are themselves audited: facts in which all is well pass, and each way to spoil them is found.

Here with everything that a story knows; what `chorus audit` sees in databases alone is spoiled in `test_audit_live`.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest
from uuid_utils.compat import uuid7

from events.orders import OrderPaid, OrderPlaced
from ops.audit.facts import Facts, History, Mail, Waiting
from ops.audit.invariants import findings
from tests.stories.conftest import Stacks
from tests.stories.facts import gather

T = TypeVar("T")


@pytest.fixture(scope="module")
async def gathered(stacks: Stacks) -> Facts:
    """What stands in the databases after orders that were paid, refused and cancelled."""
    chorus = await stacks.take()
    ada = await chorus.customer(deposit="100.00")
    paid, cancelled, refused = [await ada.order(total) for total in ("30", "20", "500")]
    for order_id in (paid, cancelled, refused):
        await ada.settled(order_id)
    await ada.cancel(cancelled)
    assert (await ada.ask_for_order("0.00")).status_code == 422
    await chorus.is_quiet()
    return await gather(chorus)


@pytest.fixture
def facts(gathered: Facts) -> Facts:
    """The same, to be spoiled."""
    return copied(gathered)


def copied(facts: Facts) -> Facts:
    """A copy whose lists can be changed; what is in them is frozen, and replaced where it is spoiled."""
    names = [field.name for field in dataclasses.fields(facts)]
    mine = Facts(**{name: copy.copy(getattr(facts, name)) for name in names})
    mine.copies = {service: list(users) for service, users in facts.copies.items()}
    return mine


def the(rows: list[T], **wanted: Any) -> T:
    """The last row that has these values."""
    return next(
        row for row in reversed(rows) if all(getattr(row, k) == v for k, v in wanted.items())
    )


def change(rows: list[Any], found: Any, **values: Any) -> None:
    """The same row with other values."""
    rows[rows.index(found)] = dataclasses.replace(found, **values)


def tell_again(facts: Facts, kind: type) -> None:
    """The same news as another event."""
    assert facts.journal is not None
    last = next(
        received for received in reversed(facts.journal) if isinstance(received.event, kind)
    )
    facts.journal.append(last._replace(id=uuid7()))


def debit_the_refused(facts: Facts) -> None:
    refused = the(facts.charges, status="rejected")
    paid = the(facts.transfers, kind="payment")
    facts.transfers.append(
        dataclasses.replace(paid, order_id=refused.order_id, amount=refused.amount)
    )


def accept_the_refused(facts: Facts) -> None:
    """One that was refused has an order all the same."""
    attempts = list(asked(facts).attempts)
    refused = the(attempts, refused=True)
    accepted = next(attempt for attempt in reversed(attempts) if attempt.order_id)
    change(attempts, refused, correlation_id=accepted.correlation_id)
    facts.history = History(attempts)


def asked(facts: Facts) -> History:
    assert facts.history is not None
    return facts.history


def carried(facts: Facts) -> Mail:
    assert facts.mail is not None
    return facts.mail


def remail(facts: Facts, arrived: Any) -> None:
    facts.mail = dataclasses.replace(carried(facts), arrived=arrived)


def unhear(facts: Facts, service: str) -> None:
    id = next(id for id, services in reversed(facts.received.items()) if service in services)
    facts.received[id] -= {service}


Spoil = Callable[[Facts], object]

SPOILED: Final[dict[str, tuple[str, Spoil]]] = {
    "a balance differs": ("1", lambda f: change(f.accounts, the(f.accounts), balance=7)),
    "an entry is one cent more": ("1", lambda f: change(f.transfers, the(f.transfers), entries=1)),
    "an entry is missing": ("1", lambda f: change(f.accounts, the(f.accounts), entries=-1)),
    "wallets do not add up": (
        "1",
        lambda f: setattr(f, "totals", dataclasses.replace(f.totals, wallets=-1)),
    ),
    "a balance was negative": (
        "2",
        lambda f: change(f.transfers, the(f.transfers, kind="payment"), balance=-1),
    ),
    "a transfer is missing": (
        "2",
        lambda f: change(f.transfers, the(f.transfers, kind="payment"), version_before=1),
    ),
    "an order is lost": ("3", lambda f: f.orders.remove(the(f.orders, status="rejected"))),
    "an order is still pending": (
        "3",
        lambda f: change(f.orders, the(f.orders), status="pending"),
    ),
    "an order has two outcomes": ("3", lambda f: tell_again(f, OrderPaid)),
    "an order was placed twice": ("3", lambda f: tell_again(f, OrderPlaced)),
    "an order was never asked for": ("3", lambda f: setattr(f, "history", History([]))),
    "an order costs something else": (
        "3",
        lambda f: change(f.accepted, the(f.accepted), total=1),
    ),
    "a refused request has an order": ("3", accept_the_refused),
    "a paid order has no debit": (
        "4",
        lambda f: f.transfers.remove(the(f.transfers, kind="payment")),
    ),
    "a debit is too high": (
        "4",
        lambda f: change(f.transfers, the(f.transfers, kind="payment"), amount=9),
    ),
    "a refused order was debited": ("4", debit_the_refused),
    "an order was debited twice": (
        "4",
        lambda f: f.transfers.append(the(f.transfers, kind="payment")),
    ),
    "a cancelled order was kept": (
        "4",
        lambda f: f.transfers.remove(the(f.transfers, kind="refund")),
    ),
    "there was money enough": (
        "5",
        lambda f: change(f.charges, the(f.charges, status="rejected"), amount=1),
    ),
    "the balance was another": (
        "5",
        lambda f: change(f.charges, the(f.charges, status="rejected"), balance=3),
    ),
    "it was not cancelled": (
        "5",
        lambda f: change(f.charges, the(f.charges, status="rejected"), reason="order_cancelled"),
    ),
    "a letter is missing": ("6", lambda f: f.letters.remove(the(f.letters, kind="joy"))),
    "a letter stands there twice": ("6", lambda f: f.letters.append(the(f.letters, kind="joy"))),
    "a letter is of the wrong kind": (
        "6",
        lambda f: change(f.letters, the(f.letters, kind="sorrow"), kind="joy"),
    ),
    "a letter goes to a stranger": (
        "6",
        lambda f: change(f.letters, the(f.letters), address="eve@x.test"),
    ),
    "a letter tells another amount": ("6", lambda f: change(f.letters, the(f.letters), amount=1)),
    "a letter was not sent": ("6", lambda f: change(f.letters, the(f.letters), status="failed")),
    "a mail did not arrive": ("6", lambda f: remail(f, carried(f).arrived[1:])),
    "a mail arrived twice": (
        "6",
        lambda f: remail(f, [*carried(f).arrived, carried(f).arrived[-1]]),
    ),
    "a mail was never written": (
        "6",
        lambda f: remail(f, [*carried(f).arrived, ("?", ("eve@x.test",), "?")]),
    ),
    "a copy is old": (
        "7",
        lambda f: change(f.copies["notifications"], the(f.copies["notifications"]), version=0),
    ),
    "a copy is missing": ("7", lambda f: f.copies["orders"].pop()),
    "a key is missing": ("7", lambda f: f.keys.update(billing=frozenset())),
    "events tell another balance": (
        "7",
        lambda f: change(f.accounts, the(f.accounts), balance=7),
    ),
    "events tell another status": (
        "7",
        lambda f: change(f.orders, the(f.orders), status="pending"),
    ),
    "billing knows another order": ("7", lambda f: change(f.charges, the(f.charges), amount=1)),
    "something was not published": (
        "8",
        lambda f: f.outboxes.update({"orders": Waiting(rows=1, overdue=1)}),
    ),
    "something is parked": ("8", lambda f: setattr(f, "queues", {"billing.dead": 1})),
    "something lies in a queue": ("8", lambda f: setattr(f, "queues", {"billing.order-placed": 1})),
    "a letter has no end": ("8", lambda f: setattr(f, "open_letters", 1)),
    "something was not heard": ("9", lambda f: unhear(f, "billing")),
    "something was heard that nobody told": (
        "9",
        lambda f: f.received.update({uuid7(): frozenset({"billing"})}),
    ),
    "more was heard than told": ("9", lambda f: f.counted.update({"billing": (10**6, 0)})),
    "a letter's cause was not heard": (
        "9",
        lambda f: change(f.letters, the(f.letters), received=False),
    ),
}


def test_a_flow_in_which_all_is_well_passes(facts: Facts) -> None:
    assert findings(facts) == []


@pytest.mark.parametrize(("invariant", "spoil"), SPOILED.values(), ids=SPOILED)
def test_whatever_is_wrong_is_found(facts: Facts, invariant: str, spoil: Spoil) -> None:
    spoil(facts)
    assert [found for found in findings(facts) if found.startswith(f"{invariant} ")]


def test_every_invariant_is_spoiled_here(facts: Facts) -> None:
    assert {invariant for invariant, _ in SPOILED.values()} == {str(n) for n in range(1, 10)}
