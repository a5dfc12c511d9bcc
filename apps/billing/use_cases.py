"""What billing does. Each function takes a transaction and a list, and returns results in the list's order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from apps.billing.models import Account, Charge, Holder, Transfer
from apps.billing.problems import BalanceLimit, InsufficientFunds
from events.base import Cause, Heard
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.bus.transaction import Transaction
from events.orders import OrderCancelled, OrderPlaced
from events.users import UserRegistered, UserUpdated


@dataclass(frozen=True, slots=True)
class MoveFunds:
    """A wish to put `amount` minor units in or take them out."""

    user_id: UUID
    amount: int
    because: Cause


async def open_accounts(tx: Transaction, heard: Sequence[Heard[UserRegistered]]) -> None:
    """Remember new users and open their accounts, unless first use has done so."""
    await tx.upsert_newer(Holder.copies(e.event.user for e in heard))
    await _accounts(tx, {e.event.user.id: e.because() for e in heard})


async def update_holders(tx: Transaction, heard: Sequence[Heard[UserUpdated]]) -> None:
    """Remember users as they are now."""
    await tx.upsert_newer(Holder.copies(e.event.user for e in heard))


async def view_accounts(tx: Transaction, asked: Sequence[tuple[UUID, Cause]]) -> list[Account]:
    """The accounts of users; opened if this is their first use."""
    accounts = await _accounts(tx, dict(asked))
    return [accounts[user_id] for user_id, _ in asked]


async def deposit(tx: Transaction, wishes: Sequence[MoveFunds]) -> list[Transfer | BalanceLimit]:
    """Put money in."""
    accounts = await _accounts(tx, {wish.user_id: wish.because for wish in wishes})
    results: list[Transfer | BalanceLimit] = []
    for wish in wishes:
        account = accounts[wish.user_id]
        result = account.deposit(wish.amount, tx.new_id(), tx.now)
        if isinstance(result, Transfer):
            event = FundsDeposited(account=account.state(), transaction=result.state())
            tx.publish(event, wish.because)
        results.append(result)
    await _save(tx, accounts.values(), [r for r in results if isinstance(r, Transfer)])
    return results


async def withdraw(
    tx: Transaction, wishes: Sequence[MoveFunds]
) -> list[Transfer | InsufficientFunds]:
    """Take money out, as far as it is there: each wish in the order of arrival."""
    accounts = await _accounts(tx, {wish.user_id: wish.because for wish in wishes})
    results: list[Transfer | InsufficientFunds] = []
    for wish in wishes:
        account = accounts[wish.user_id]
        result = account.withdraw(wish.amount, tx.new_id(), tx.now)
        if isinstance(result, Transfer):
            event = FundsWithdrawn(account=account.state(), transaction=result.state())
            tx.publish(event, wish.because)
        results.append(result)
    await _save(tx, accounts.values(), [r for r in results if isinstance(r, Transfer)])
    return results


async def charge_orders(tx: Transaction, placed: Sequence[Heard[OrderPlaced]]) -> None:
    """Debit orders in the order of arrival, each once; what does not fit is refused, and what follows may still fit."""
    accounts = await _accounts(tx, {e.event.order.user_id: e.because() for e in placed})
    decided = await tx.load(Charge, [e.event.order.id for e in placed])
    charges: list[Charge] = []
    transfers: list[Transfer] = []
    too_late: list[Charge] = []
    for heard in placed:
        order = heard.event.order
        account = accounts[order.user_id]
        charge = decided.get(order.id)
        if charge is None:
            charge, transfer = account.charge(order, tx.new_id(), tx.now)
            decided[order.id] = charge
            charges.append(charge)
            transfers += [transfer] if transfer else []
        elif charge.status == "cancelled":
            charge.status, charge.reason = "rejected", "order_cancelled"
            too_late.append(charge)
        else:
            continue
        tx.publish(_outcome(heard, charge, account), heard.because())
    await tx.insert(charges)
    await tx.update(too_late, "status", "reason")
    await _save(tx, accounts.values(), transfers)


async def refund_orders(tx: Transaction, cancelled: Sequence[Heard[OrderCancelled]]) -> None:
    """Give back what was debited for cancelled orders; an order not seen yet gets a tombstone instead of a debit."""
    accounts = await _accounts(tx, {e.event.order.user_id: e.because() for e in cancelled})
    decided = await tx.load(Charge, [e.event.order.id for e in cancelled])
    tombstones: list[Charge] = []
    refunded: list[Charge] = []
    transfers: list[Transfer] = []
    for heard in cancelled:
        order = heard.event.order
        account = accounts[order.user_id]
        charge = decided.get(order.id)
        if charge is None:
            charge = Charge.of(order, account, "cancelled", tx.new_id(), tx.now)
            decided[order.id] = charge
            tombstones.append(charge)
        elif charge.status == "paid":
            transfers.append(account.refund(charge, tx.new_id(), tx.now))
            refunded.append(charge)
            event = PaymentRefunded(
                refund=charge.refunded(),
                payment=charge.payment(),
                order=order,
                account=account.state(),
            )
            tx.publish(event, heard.because())
    await tx.insert(tombstones)
    await tx.update(refunded, "status", "refund_id", "refunded_at")
    await _save(tx, accounts.values(), transfers)


def _outcome(
    heard: Heard[OrderPlaced], charge: Charge, account: Account
) -> PaymentSucceeded | PaymentRejected:
    order = heard.event.order
    if charge.status == "paid":
        return PaymentSucceeded(payment=charge.payment(), order=order, account=account.state())
    assert charge.reason is not None
    return PaymentRejected(reason=charge.reason, order=order, account=account.state())


async def _accounts(tx: Transaction, users: dict[UUID, Cause]) -> dict[UUID, Account]:
    """The users' accounts, locked, in one statement; opened first where there is none."""
    accounts = await tx.lock(Account, users, key="user_id")
    missing = [user_id for user_id in users if user_id not in accounts]
    if missing:
        opening = [Account(id=tx.new_id(), user_id=id, opened_at=tx.now) for id in missing]
        new = await tx.insert_new(opening)
        for account in opening:
            if account.id in new:
                event = AccountOpened(account=account.state())
                tx.publish(event, users[account.user_id])
        accounts |= await tx.lock(Account, missing, key="user_id")
    return accounts


async def _save(
    tx: Transaction, accounts: Iterable[Account], transfers: Sequence[Transfer]
) -> None:
    moved = {transfer.account_id for transfer in transfers}
    await tx.update([a for a in accounts if a.id in moved], "balance", "version")
    await tx.insert(transfers)
