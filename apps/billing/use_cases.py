"""What billing does. Each function takes a transaction and a list, and returns results in the list's order."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from apps.billing.models import Account, Charge, Holder, Transfer
from apps.billing.problems import BalanceLimit, InsufficientFunds
from chassis.database.transaction import Transaction
from chassis.web.problems import NotFound
from events.base import Causation, Envelope
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.orders import OrderCancelled, OrderPlaced
from events.users import UserRegistered, UserUpdated

NOBODY: Final = "There is no such user."

Refusal = TypeVar("Refusal", BalanceLimit, InsufficientFunds)


@dataclass(frozen=True, slots=True)
class MoveFunds:
    """A wish to put `amount` minor units in or take them out."""

    user_id: UUID
    amount: int
    cause: Causation
    by_owner: bool
    """Whether the user himself asks: his token proves that he exists, an operator's proves nobody else."""


@dataclass(frozen=True, slots=True)
class ViewAccount:
    """A wish to see an account. `by_owner` as in MoveFunds."""

    user_id: UUID
    cause: Causation
    by_owner: bool


async def open_accounts(tx: Transaction, received: Sequence[Envelope[UserRegistered]]) -> None:
    """Remember new users and open their accounts, unless first use has done so."""
    await tx.upsert_newer(Holder.copies(e.event.user for e in received))
    await _opened(tx, {e.event.user.id: e.causation() for e in received})


async def update_holders(tx: Transaction, received: Sequence[Envelope[UserUpdated]]) -> None:
    """Remember users as they are now."""
    await tx.upsert_newer(Holder.copies(e.event.user for e in received))


async def view_accounts(
    tx: Transaction, commands: Sequence[ViewAccount]
) -> list[Account | NotFound]:
    """The accounts of users; opened if this is their first use."""
    accounts = await _asked_for(tx, commands)
    return [accounts.get(command.user_id) or NotFound(NOBODY) for command in commands]


async def deposit(
    tx: Transaction, commands: Sequence[MoveFunds]
) -> list[Transfer | BalanceLimit | NotFound]:
    """Put money in."""
    return await _move(
        tx,
        commands,
        Account.deposit,
        lambda account, moved: FundsDeposited(account=account.state(), transaction=moved.state()),
    )


async def withdraw(
    tx: Transaction, commands: Sequence[MoveFunds]
) -> list[Transfer | InsufficientFunds | NotFound]:
    """Take money out, as far as it is there: each wish in the order of arrival."""
    return await _move(
        tx,
        commands,
        Account.withdraw,
        lambda account, moved: FundsWithdrawn(account=account.state(), transaction=moved.state()),
    )


async def charge_orders(tx: Transaction, placed: Sequence[Envelope[OrderPlaced]]) -> None:
    """Debit orders in the order of arrival, each once; what does not fit is refused, and what follows may still fit."""
    accounts = await _opened(tx, {e.event.order.user_id: e.causation() for e in placed})
    # Read once the accounts are locked: that guards the charges of these users' orders as well.
    decided = await tx.load(Charge, [e.event.order.id for e in placed])
    charges: list[Charge] = []
    transfers: list[Transfer] = []
    too_late: list[Charge] = []
    for received in placed:
        order = received.event.order
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
        tx.publish(_outcome(received, charge, account), received.causation())
    await tx.insert(charges)
    await tx.update(too_late, "status", "reason")
    await _save(tx, accounts.values(), transfers)


async def refund_orders(tx: Transaction, cancelled: Sequence[Envelope[OrderCancelled]]) -> None:
    """Give back what was debited for cancelled orders; an order not seen yet gets a tombstone instead of a debit."""
    accounts = await _opened(tx, {e.event.order.user_id: e.causation() for e in cancelled})
    # Read once the accounts are locked: that guards the charges of these users' orders as well.
    decided = await tx.load(Charge, [e.event.order.id for e in cancelled])
    tombstones: list[Charge] = []
    refunded: list[Charge] = []
    transfers: list[Transfer] = []
    for received in cancelled:
        order = received.event.order
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
            tx.publish(event, received.causation())
    await tx.insert(tombstones)
    await tx.update(refunded, "status", "refund_id", "refunded_at")
    await _save(tx, accounts.values(), transfers)


def _outcome(
    received: Envelope[OrderPlaced], charge: Charge, account: Account
) -> PaymentSucceeded | PaymentRejected:
    order = received.event.order
    if charge.status == "paid":
        return PaymentSucceeded(payment=charge.payment(), order=order, account=account.state())
    assert charge.reason is not None
    return PaymentRejected(reason=charge.reason, order=order, account=account.state())


async def _move(
    tx: Transaction,
    commands: Sequence[MoveFunds],
    move: Callable[[Account, int, UUID, datetime], Transfer | Refusal],
    event: Callable[[Account, Transfer], FundsDeposited | FundsWithdrawn],
) -> list[Transfer | Refusal | NotFound]:
    accounts = await _asked_for(tx, commands)
    results: list[Transfer | Refusal | NotFound] = []
    for command in commands:
        account = accounts.get(command.user_id)
        if account is None:
            results.append(NotFound(NOBODY))
            continue
        result = move(account, command.amount, tx.new_id(), tx.now)
        if isinstance(result, Transfer):
            tx.publish(event(account, result), command.cause)
        results.append(result)
    await _save(tx, accounts.values(), [r for r in results if isinstance(r, Transfer)])
    return results


async def _asked_for(
    tx: Transaction, commands: Sequence[ViewAccount | MoveFunds]
) -> dict[UUID, Account]:
    """The accounts that wishes are about, locked; none where somebody else asks for a user of whom nobody has heard."""
    asked = {command.user_id: command.cause for command in commands}
    doubtful = asked.keys() - {command.user_id for command in commands if command.by_owner}
    if doubtful:
        doubtful -= (await tx.load(Account, doubtful, key="user_id")).keys()
        doubtful -= (await tx.load(Holder, doubtful)).keys()
    return await _opened(tx, {id: asked[id] for id in asked if id not in doubtful})


async def _opened(tx: Transaction, users: dict[UUID, Causation]) -> dict[UUID, Account]:
    """The users' accounts, locked, in one statement; opened first where there is none.

    Nothing is locked before all are there, and they are opened in the order of users: transactions that open accounts
    for the same users wait for each other and never deadlock.
    """
    accounts = await tx.lock_all(Account, users, key="user_id")
    if len(accounts) == len(users):
        return accounts
    known = await tx.load(Account, users, key="user_id")
    if missing := sorted(users.keys() - known.keys()):
        opening = [Account(id=tx.new_id(), user_id=id, opened_at=tx.now) for id in missing]
        new = await tx.insert_new(opening)
        for account in opening:
            if account.id in new:
                event = AccountOpened(account=account.state())
                tx.publish(event, users[account.user_id])
    return await tx.lock(Account, users, key="user_id")


async def _save(
    tx: Transaction, accounts: Iterable[Account], transfers: Sequence[Transfer]
) -> None:
    moved = {transfer.account_id for transfer in transfers}
    await tx.update([a for a in accounts if a.id in moved], "balance", "version")
    await tx.insert(transfers)
