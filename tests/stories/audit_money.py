"""The invariants about money: the ledger, debits, refunds and refusals."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from uuid import UUID

from tests.stories.facts import Facts, Findings, Rows, by_id


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
    orders = by_id(facts.orders)
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


def _ledgers(facts: Facts) -> Mapping[UUID, Rows]:
    """Transfers by wallet, in the wallet's order."""
    ledgers: dict[UUID, Rows] = defaultdict(list)
    for transfer in facts.transfers:
        ledgers[transfer["account_id"]].append(transfer)
    return ledgers
