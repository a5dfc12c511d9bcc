"""The invariants about money: the ledger, debits, refunds and refusals."""

from collections import Counter
from typing import Final

from apps.billing.models import CASH, REVENUE
from ops.audit.facts import Charge, Facts, Order, Transfer, by, grouped
from ops.audit.findings import Finding, Findings, wrong

INTO_THE_WALLET: Final = {"deposit": CASH, "refund": REVENUE}
OUT_OF_THE_WALLET: Final = {"withdrawal": CASH, "payment": REVENUE}
"""Which account stands on the other side of each kind of transfer."""


def ledger_adds_up(facts: Facts) -> Findings:
    """Every transaction's entries sum to zero; every balance is the sum of its entries; the wallets add up."""
    for transfer in facts.transfers:
        if transfer.entries:
            yield wrong("transfer", transfer.id, f"sums to {transfer.entries}, not 0")
        if (transfer.debit_account, transfer.credit_account) != _sides(transfer):
            yield wrong("transfer", transfer.id, f"is a {transfer.kind} between other accounts")
        if (transfer.order_id is None) != (transfer.kind in {"deposit", "withdrawal"}):
            yield wrong(
                "transfer", transfer.id, f"is a {transfer.kind} about order {transfer.order_id}"
            )
    for account in facts.accounts:
        if not account.balance == account.entries == account.moved:
            yield wrong(
                "account",
                account.id,
                f"has {account.balance}, its entries sum to {account.entries}, its transfers to {account.moved}",
            )
    if facts.totals.wallets != facts.totals.moved:
        yield Finding(f"all wallets hold {facts.totals.wallets}, not {facts.totals.moved}")


def _sides(transfer: Transfer) -> tuple[object, object]:
    if transfer.kind in INTO_THE_WALLET:
        return INTO_THE_WALLET[transfer.kind], transfer.account_id
    return transfer.account_id, OUT_OF_THE_WALLET[transfer.kind]


def no_balance_was_ever_below_zero(facts: Facts) -> Findings:
    """Nor does the ledger have a gap, or a balance that does not follow from the one before."""
    for transfer in facts.transfers:
        incoming = transfer.kind in INTO_THE_WALLET
        balance = transfer.balance_before + (transfer.amount if incoming else -transfer.amount)
        version = transfer.version_before + 1
        if balance < 0 or (balance, version) != (transfer.balance, transfer.account_version):
            yield wrong(
                "transfer",
                transfer.id,
                f"left account {transfer.account_id} with {transfer.balance} in version {transfer.account_version}, "
                f"which should be {balance} in version {version}",
            )
    for account in facts.accounts:
        if account.balance < 0:
            yield wrong("account", account.id, f"has {account.balance}")
        if account.version != account.transfers + 1:
            yield wrong(
                "account",
                account.id,
                f"is in version {account.version} after {account.transfers} transfers",
            )


Settled = tuple[str, str | None, bool | None, bool | None]

AGREED: Final[set[Settled]] = {
    ("paid", "paid", True, None),
    ("rejected", "rejected", None, None),
    ("cancelled", "rejected", None, None),
    ("cancelled", "refunded", True, True),
}
"""How an order, its charge, its debit and its refund go together at rest; True is one of the order's total."""


def paid_orders_and_debits_are_the_same(facts: Facts) -> Findings:
    """With the same amounts; what is rejected has no debit; what is cancelled has none, or has it back."""
    moved = Counter(
        (t.order_id, t.kind) for t in facts.transfers if t.kind in {"payment", "refund"}
    )
    for (order_id, kind), times in moved.items():
        if order_id is not None and times > 1:
            yield wrong("order", order_id, f"has {times} transfers of kind {kind}")
    charges = by("order_id", facts.charges)
    transfers = grouped((t.order_id, t) for t in facts.transfers if t.order_id is not None)
    orders = by("id", facts.orders)
    for order in facts.orders:
        charge = charges.get(order.id)
        found = _settled(order, charge, transfers.get(order.id, []))
        if found not in AGREED and not _on_its_way(facts, order, charge):
            yield wrong("order", order.id, _told(order, charge, transfers.get(order.id, [])))
    for id in ({*charges} | {*transfers}) - orders.keys():
        if id is not None:
            yield wrong("order", id, "was charged and does not exist")


def _settled(order: Order, charge: Charge | None, transfers: list[Transfer]) -> Settled:
    amounts = {t.kind: t.amount == order.total for t in transfers}
    accounts = {t.account_id for t in transfers} | ({charge.account_id} if charge else set())
    status = charge.status if charge and len(accounts) == 1 else None
    return order.status, status, amounts.get("payment"), amounts.get("refund")


def _on_its_way(facts: Facts, order: Order, charge: Charge | None) -> bool:
    """Whether one of the two may not have heard yet what the other one did, in a moment or at all."""
    if order.status == "pending" and charge is None:
        return True  # how long that may last, the third invariant says
    decided = (charge.created_at, charge.refunded_at) if charge else ()
    return facts.in_flight(order.placed_at, order.settled_at, *decided)


def _told(order: Order, charge: Charge | None, transfers: list[Transfer]) -> str:
    moved = ", ".join(f"{t.kind} {t.amount}" for t in transfers) or "nothing moved"
    return f"of {order.total} is {order.status}, its charge {charge.status if charge else None}, {moved}"


def every_refusal_was_justified(facts: Facts) -> Findings:
    """By the balance at its point in the ledger, or by a cancellation."""
    orders = by("id", facts.orders)
    for charge in facts.charges:
        if charge.status != "rejected":
            continue
        if charge.reason == "order_cancelled":
            order = orders.get(charge.order_id)
            if order is not None and order.status != "cancelled":
                yield wrong("order", charge.order_id, "was refused as cancelled and is not")
        elif charge.stood != charge.balance or charge.balance >= charge.amount:
            yield wrong(
                "order",
                charge.order_id,
                f"of {charge.amount} was refused with {charge.balance} on the account, by the ledger {charge.stood}",
            )
