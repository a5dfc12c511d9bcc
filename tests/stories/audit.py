"""What must hold whatever has happened: the invariants, checked over all databases, the journal and the mail.

`gather` takes everything down, `findings` thinks about it, without I/O: so the audit itself can be tested, by
spoiling what was gathered.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from apps.common.settings import SERVICES
from events.base import Event, Heard
from events.billing import AccountState
from events.bus.topology import HEARD_BY
from events.notifications import NotificationFailed, NotificationSent
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected, OrderState
from events.users import UserRegistered, UserState, UserUpdated

if TYPE_CHECKING:
    from tests.stories.customers import Attempt
    from tests.stories.stack import Stack

Rows = list[dict[str, Any]]
Findings = Iterator[str]

COPIES: Final = {"billing": "holders", "orders": "customers", "notifications": "recipients"}
"""Where services keep their copies of users."""

USER: Final = "id, email, name, locale, version"


@dataclass(frozen=True)
class Facts:
    """Everything that the invariants speak about, taken down at rest."""

    users: Rows
    copies: Mapping[str, Rows]
    keys: Mapping[str, Rows]
    accounts: Rows
    transfers: Rows
    entries: Rows
    charges: Rows
    orders: Rows
    letters: Rows
    outboxes: Mapping[str, int]
    queues: Mapping[str, int]
    inboxes: Mapping[str, set[UUID]]
    events: list[Heard[Event]]
    attempts: "list[Attempt]"
    mail: list[tuple[str, tuple[str, ...], str]]
    """The notification's id, recipients and subject of each letter that arrived."""
    refused_for_good: set[str]
    extra_copies: int


async def gather(stack: "Stack") -> Facts:
    """Take everything down. The stack must be at rest."""
    return Facts(
        users=await stack.rows("users", f"SELECT {USER} FROM users ORDER BY id"),
        copies={
            service: await stack.rows(service, f"SELECT {USER} FROM {table} ORDER BY id")
            for service, table in COPIES.items()
        },
        keys={
            service: await stack.rows(service, "SELECT * FROM signing_keys ORDER BY key_id")
            for service in SERVICES
        },
        accounts=await stack.rows("billing", "SELECT * FROM accounts"),
        transfers=await stack.rows("billing", "SELECT * FROM transfers ORDER BY account_version"),
        entries=await stack.rows("billing", "SELECT * FROM ledger_entries"),
        charges=await stack.rows("billing", "SELECT * FROM charges"),
        orders=await stack.rows("orders", "SELECT * FROM orders"),
        letters=await stack.rows("notifications", "SELECT * FROM letters"),
        outboxes={
            service: await stack.value(service, "SELECT count(*) FROM outbox")
            for service in SERVICES
        },
        queues=await stack.queues(),
        inboxes={service: await stack.inbox(service) for service in SERVICES},
        events=stack.journal.events(),
        attempts=list(stack.attempts),
        mail=[
            (letter.notification_id, tuple(letter.recipients), letter.subject)
            for letter in stack.mail.letters
        ],
        refused_for_good=set(stack.refused_for_good),
        extra_copies=stack.extra_copies,
    )


def findings(facts: Facts) -> list[str]:
    """What is wrong, a line each; empty if every invariant holds."""
    return [f"{name}: {found}" for name, holds in INVARIANTS.items() for found in holds(facts)]


def ledger_adds_up(facts: Facts) -> Findings:
    """Every transaction's entries sum to zero; every balance is the sum of its entries; the wallets add up."""
    sums: Counter[UUID] = Counter()
    balances: Counter[UUID] = Counter()
    for entry in facts.entries:
        sums[entry["transaction_id"]] += entry["amount"]
        balances[entry["account_id"]] += entry["amount"]
    yield from (f"transaction {id} sums to {total}" for id, total in sums.items() if total)
    for account in facts.accounts:
        if account["balance"] != balances[account["id"]]:
            yield f"account {account['id']} has {account['balance']}, not {balances[account['id']]}"
    moved: Counter[str] = Counter()
    for transfer in facts.transfers:
        moved[transfer["kind"]] += transfer["amount"]
    wallets = sum(account["balance"] for account in facts.accounts)
    should = moved["deposit"] - moved["withdrawal"] - moved["payment"] + moved["refund"]
    if wallets != should:
        yield f"all wallets hold {wallets}, not {should}"


def no_balance_was_ever_below_zero(facts: Facts) -> Findings:
    """Nor does the ledger have a gap, or a balance that does not follow from the one before."""
    for account in facts.accounts:
        balance, version = 0, 1
        for transfer in _ledgers(facts)[account["id"]]:
            incoming = transfer["debit_account"] != account["id"]
            balance += transfer["amount"] if incoming else -transfer["amount"]
            version += 1
            if balance < 0 or (balance, version) != (
                transfer["balance"],
                transfer["account_version"],
            ):
                yield f"account {account['id']} has {balance} in version {version}: {transfer}"
        if account["version"] != version:
            yield f"account {account['id']} is in version {account['version']}, not {version}"


def every_accepted_order_has_one_outcome(facts: Facts) -> Findings:
    """And each order was asked for once; what was refused has no order."""
    orders = _by_id(facts.orders)
    placed = _subjects(facts, OrderPlaced)
    told = {kind: _subjects(facts, kind) for kind in (OrderPaid, OrderRejected, OrderCancelled)}
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


def paid_orders_and_debits_are_the_same(facts: Facts) -> Findings:
    """With the same amounts; what is rejected has no debit; what is cancelled has none, or has it back."""
    debits = {t["order_id"]: t for t in facts.transfers if t["kind"] == "payment"}
    refunds = {t["order_id"]: t for t in facts.transfers if t["kind"] == "refund"}
    payments = sum(t["kind"] in {"payment", "refund"} for t in facts.transfers)
    if payments != len(debits) + len(refunds):
        yield "an order was debited or refunded twice"
    charges = {charge["order_id"]: charge for charge in facts.charges}
    for order in facts.orders:
        id, total = order["id"], order["total"]
        debit, refund = (by.get(id, {}).get("amount") for by in (debits, refunds))
        charge = charges.get(id, {}).get("status")
        if (order["status"], charge, debit and debit == total, refund and refund == total) not in {
            ("paid", "paid", True, None),
            ("rejected", "rejected", None, None),
            ("cancelled", "rejected", None, None),
            ("cancelled", "refunded", True, True),
        }:
            yield f"{order}: charge {charge}, debit {debit}, refund {refund}"
    nobodys = {*debits, *refunds, *charges} - {order["id"] for order in facts.orders}
    yield from (f"order {id} was charged and does not exist" for id in nobodys)


def every_refusal_was_justified(facts: Facts) -> Findings:
    """By the balance at its point in the ledger, or by a cancellation."""
    orders = _by_id(facts.orders)
    balances = {(t["account_id"], t["account_version"]): t["balance"] for t in facts.transfers} | {
        (account["id"], 1): 0 for account in facts.accounts
    }
    for charge in facts.charges:
        if charge["status"] != "rejected":
            continue
        if charge["reason"] == "order_cancelled":
            if orders[charge["order_id"]]["status"] != "cancelled":
                yield f"{charge} was refused as cancelled and is not"
            continue
        balance = balances.get((charge["account_id"], charge["account_version"]))
        if balance != charge["balance"] or balance >= charge["amount"]:
            yield f"{charge} was refused while the balance was {balance}"


LETTERS: Final = {"paid": {"joy"}, "refunded": {"joy", "refund"}, "rejected": {"sorrow"}}
"""The kinds of letters that belong to what billing decided about an order."""


def every_outcome_has_its_letter(facts: Facts) -> Findings:
    """Of the right kind, to an address of the right user, sent once; a letter that no server took has failed."""
    due = {
        (charge["order_id"], kind): charge
        for charge in facts.charges
        for kind in LETTERS.get(charge["status"], ())
    }
    addresses: dict[UUID, set[str]] = defaultdict(set)
    for heard in facts.events:
        if isinstance(heard.event, UserRegistered | UserUpdated):
            addresses[heard.event.user.id].add(heard.event.user.email)
    written = Counter((letter["order_id"], letter["kind"]) for letter in facts.letters)
    yield from (f"order {key[0]} has no letter of {key[1]}" for key in due.keys() - written.keys())
    for letter in facts.letters:
        key = (letter["order_id"], letter["kind"])
        charge = due.get(key)
        if letter["kind"] == "message":
            continue
        if charge is None or written[key] != 1:
            yield f"{written[key]} letters of {key[1]} about order {key[0]}, which is no such case"
        elif (letter["user_id"], letter["amount"]) != (charge["user_id"], charge["amount"]):
            yield f"{letter} does not fit {charge}"
        if letter["address"] not in addresses[letter["user_id"]]:
            yield f"{letter} goes to somebody else"
    yield from _mail(facts)


def _mail(facts: Facts) -> Findings:
    arrived: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for id, recipients, subject in facts.mail:
        arrived[id].append((recipients, subject))
    sent, failed = _subjects(facts, NotificationSent), _subjects(facts, NotificationFailed)
    copies = 0
    for letter in facts.letters:
        found = arrived.pop(str(letter["id"]), [])
        refused = letter["address"] in facts.refused_for_good
        if (letter["status"], sent[letter["id"]], failed[letter["id"]]) != (
            ("failed", 0, 1) if refused else ("sent", 1, 0)
        ):
            yield f"{letter} has no such end"
        if bool(found) == refused or set(found) - {((letter["address"],), letter["subject"])}:
            yield f"{letter} arrived as {found}"
        copies += max(0, len(found) - 1)
    yield from (f"mail {id} was never written: {found}" for id, found in arrived.items())
    if copies > facts.extra_copies:
        yield f"{copies} extra copies went out, {facts.extra_copies} may"


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
    orders = _by_id(facts.orders)
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


def _by_id(rows: Iterable[dict[str, Any]]) -> dict[UUID, dict[str, Any]]:
    return {row["id"]: row for row in rows}


def _ledgers(facts: Facts) -> Mapping[UUID, Rows]:
    """Transfers by wallet, in the wallet's order."""
    ledgers: dict[UUID, Rows] = defaultdict(list)
    for transfer in facts.transfers:
        ledgers[transfer["account_id"]].append(transfer)
    return ledgers


def _subjects(facts: Facts, kind: type[Event]) -> Counter[UUID]:
    """How many different events of a kind there are about each aggregate."""
    return Counter(
        UUID(heard.event.subject) for heard in facts.events if isinstance(heard.event, kind)
    )
