"""The audit is itself audited: a flow in which all is well passes, and each way to spoil it is found."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import pytest
from uuid_utils.compat import uuid7

from events.orders import OrderPaid, OrderPlaced
from tests.stories.audit import findings
from tests.stories.conftest import Stacks
from tests.stories.customers import Attempt
from tests.stories.facts import Facts, gather


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
    """A copy whose rows can be changed; events are frozen."""

    def copy(value: Any) -> Any:
        match value:
            case list():
                return [copy(item) for item in value]
            case dict():
                return {name: copy(item) for name, item in value.items()}
            case set():
                return set(value)
            case Attempt():
                return dataclasses.replace(value)
        return value

    names = [field.name for field in dataclasses.fields(facts)]
    return Facts(**{name: copy(getattr(facts, name)) for name in names})


def the(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The last row that has these values."""
    return next(row for row in reversed(rows) if wanted.items() <= row.items())


def take(rows: list[Any], **wanted: Any) -> None:
    """Remove such a row."""
    rows.remove(the(rows, **wanted))


def tell_again(facts: Facts, kind: type) -> None:
    """The same news as another event."""
    last = next(heard for heard in reversed(facts.events) if isinstance(heard.event, kind))
    facts.events.append(dataclasses.replace(last, id=uuid7()))


def debit_the_refused(facts: Facts) -> None:
    refused = the(facts.charges, status="rejected")
    paid = the(facts.transfers, kind="payment")
    facts.transfers.append(paid | {"order_id": refused["order_id"], "amount": refused["amount"]})


def accept_the_refused(facts: Facts) -> None:
    """One that was refused has an order all the same."""
    refused = next(attempt for attempt in facts.attempts if attempt.refused)
    accepted = next(attempt for attempt in reversed(facts.attempts) if attempt.order_id)
    refused.correlation_id, accepted.correlation_id = (
        accepted.correlation_id,
        refused.correlation_id,
    )


Spoil = Callable[[Facts], object]

SPOILED: Final[dict[str, tuple[str, Spoil]]] = {
    "a balance differs": ("1", lambda f: the(f.accounts).update(balance=7)),
    "an entry is one cent more": ("1", lambda f: the(f.entries).update(amount=7)),
    "an entry is missing": ("1", lambda f: f.entries.pop()),
    "a balance was negative": ("2", lambda f: the(f.transfers, kind="payment").update(balance=-1)),
    "a transfer is missing": ("2", lambda f: take(f.transfers, kind="deposit")),
    "an order is lost": ("3", lambda f: take(f.orders, status="rejected")),
    "an order is still pending": ("3", lambda f: the(f.orders).update(status="pending")),
    "an order has two outcomes": ("3", lambda f: tell_again(f, OrderPaid)),
    "an order was placed twice": ("3", lambda f: tell_again(f, OrderPlaced)),
    "an order was never asked for": ("3", lambda f: f.attempts.clear()),
    "an order costs something else": ("3", lambda f: the(f.orders).update(total=1)),
    "a refused request has an order": ("3", accept_the_refused),
    "a paid order has no debit": ("4", lambda f: take(f.transfers, kind="payment")),
    "a debit is too high": ("4", lambda f: the(f.transfers, kind="payment").update(amount=9)),
    "a refused order was debited": ("4", debit_the_refused),
    "an order was debited twice": (
        "4",
        lambda f: f.transfers.append(the(f.transfers, kind="payment")),
    ),
    "a cancelled order was kept": ("4", lambda f: take(f.transfers, kind="refund")),
    "there was money enough": ("5", lambda f: the(f.charges, status="rejected").update(amount=1)),
    "the balance was another": ("5", lambda f: the(f.charges, status="rejected").update(balance=3)),
    "it was not cancelled": (
        "5",
        lambda f: the(f.charges, status="rejected").update(reason="order_cancelled"),
    ),
    "a letter is missing": ("6", lambda f: take(f.letters, kind="joy")),
    "a letter stands there twice": ("6", lambda f: f.letters.append(the(f.letters, kind="joy"))),
    "a letter is of the wrong kind": (
        "6",
        lambda f: the(f.letters, kind="sorrow").update(kind="joy"),
    ),
    "a letter goes to a stranger": ("6", lambda f: the(f.letters).update(address="eve@x.test")),
    "a letter tells another amount": ("6", lambda f: the(f.letters).update(amount=1)),
    "a letter was not sent": ("6", lambda f: the(f.letters).update(status="failed")),
    "a mail did not arrive": ("6", lambda f: f.mail.pop()),
    "a mail arrived twice": ("6", lambda f: f.mail.append(f.mail[-1])),
    "a mail was never written": ("6", lambda f: f.mail.append(("?", ("eve@x.test",), "?"))),
    "a copy is old": ("7", lambda f: the(f.copies["notifications"]).update(version=0)),
    "a copy is missing": ("7", lambda f: f.copies["orders"].pop()),
    "a key is missing": ("7", lambda f: f.keys["billing"].clear()),
    "events tell another balance": ("7", lambda f: the(f.accounts).update(balance=7)),
    "events tell another status": ("7", lambda f: the(f.orders).update(status="pending")),
    "billing knows another order": ("7", lambda f: the(f.charges).update(amount=1)),
    "something was not published": ("8", lambda f: f.outboxes.update(orders=1)),  # type: ignore[attr-defined]
    "something is parked": ("8", lambda f: f.queues.update({"billing.dead": 1})),  # type: ignore[attr-defined]
    "something was not heard": ("9", lambda f: f.inboxes["billing"].pop()),
    "something was heard that nobody told": ("9", lambda f: f.inboxes["billing"].add(uuid7())),
}


def test_a_flow_in_which_all_is_well_passes(facts: Facts) -> None:
    assert findings(facts) == []


@pytest.mark.parametrize(("invariant", "spoil"), SPOILED.values(), ids=SPOILED)
def test_whatever_is_wrong_is_found(facts: Facts, invariant: str, spoil: Spoil) -> None:
    spoil(facts)
    assert [found for found in findings(facts) if found.startswith(f"{invariant} ")]


def test_every_invariant_is_spoiled_here(facts: Facts) -> None:
    assert {invariant for invariant, _ in SPOILED.values()} == {str(n) for n in range(1, 10)}
