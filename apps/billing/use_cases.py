"""The use cases of billing. Each takes a transaction and a list, and returns the results in the same order."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from apps.billing.models import (
    Account,
    BalanceLimit,
    Charge,
    Holder,
    InsufficientFunds,
    Transfer,
)
from chassis.database.transaction import Transaction
from chassis.messaging.contradictions import ContradictionError
from chassis.web.operators import OperatorAction
from chassis.web.problems import NotFound
from events.base import ByOperator, Causation, Envelope
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.orders import OrderCancelled, OrderPlaced, OrderState
from events.users import UserRegistered, UserUpdated

NO_SUCH_USER: Final = "There is no such user."

Refusal = TypeVar("Refusal", BalanceLimit, InsufficientFunds)


@dataclass(frozen=True, slots=True)
class MoveFunds:
    """Deposit or withdraw `amount` minor units."""

    user_id: UUID
    amount: int
    cause: Causation
    by_owner: bool
    """Whether the user sends it: their token proves that they exist. An operator's token does not."""
    by_operator: ByOperator | None = None


@dataclass(frozen=True, slots=True)
class ViewAccount:
    """View an account. `by_owner` as in MoveFunds."""

    user_id: UUID
    cause: Causation
    by_owner: bool


async def open_accounts(
    tx: Transaction, received: Sequence[Envelope[UserRegistered] | Envelope[UserUpdated]]
) -> None:
    """Open an account for each user, unless its first use has opened it."""
    await store_holders(tx, received)
    await _opened(tx, {e.event.user.id: e.causation() for e in received})


async def store_holders(
    tx: Transaction, received: Sequence[Envelope[UserRegistered] | Envelope[UserUpdated]]
) -> None:
    """Store users as holders of accounts."""
    users = [e.event.user for e in received]
    await tx.upsert_newer([Holder(id=user.id, version=user.version) for user in users])


async def view_accounts(
    tx: Transaction, commands: Sequence[ViewAccount]
) -> list[Account | NotFound]:
    """The accounts of users, opened on first use."""
    accounts = await _accounts_of(tx, commands)
    return [accounts.get(command.user_id) or NotFound(NO_SUCH_USER) for command in commands]


async def deposit(
    tx: Transaction, commands: Sequence[MoveFunds]
) -> list[Transfer | BalanceLimit | NotFound]:
    """Deposit amounts."""
    return await _move(tx, commands, Account.deposit)


async def withdraw(
    tx: Transaction, commands: Sequence[MoveFunds]
) -> list[Transfer | InsufficientFunds | NotFound]:
    """Withdraw amounts in the order of arrival; one that the balance does not cover is refused."""
    return await _move(tx, commands, Account.withdraw)


async def charge_orders(tx: Transaction, placed: Sequence[Envelope[OrderPlaced]]) -> None:
    """Debit orders in the order of arrival, each once; one that the balance does not cover is rejected."""
    accounts, decided = await _accounts_and_charges(tx, placed)
    charges: list[Charge] = []
    transfers: list[Transfer] = []
    too_late: list[Charge] = []
    for received in placed:
        order = received.event.order
        account = accounts[order.user_id]
        charge = _decided(decided, order)
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
        tx.publish(_outcome(charge, order, account), received.causation())
    await tx.insert(charges)
    await tx.update(too_late, "status", "reason")
    await _save(tx, accounts.values(), transfers)


async def refund_orders(tx: Transaction, cancelled: Sequence[Envelope[OrderCancelled]]) -> None:
    """Refund cancelled orders; an order that has not arrived yet gets a tombstone and will not be debited."""
    accounts, decided = await _accounts_and_charges(tx, cancelled)
    tombstones: list[Charge] = []
    refunded: list[Charge] = []
    actions: list[OperatorAction] = []
    transfers: list[Transfer] = []
    for received in cancelled:
        order = received.event.order
        account = accounts[order.user_id]
        charge = _decided(decided, order)
        if charge is None:
            charge = Charge.of(order, account, "cancelled", tx.new_id(), tx.now)
            decided[order.id] = charge
            tombstones.append(charge)
        elif charge.status == "paid":
            transfer = account.refund(charge, tx.new_id(), tx.now)
            transfers.append(transfer)
            refunded.append(charge)
            by, flow = received.event.by_operator, received.cause.correlation_id
            actions += OperatorAction.of(tx, by, transfer.kind, transfer.id, flow)
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
    await tx.insert(actions)


async def _accounts_and_charges(
    tx: Transaction, received: Sequence[Envelope[OrderPlaced] | Envelope[OrderCancelled]]
) -> tuple[dict[UUID, Account], dict[UUID, Charge]]:
    """The accounts of the orders' users, locked, and the charges of those orders that have one.

    The charges are read after the accounts are locked, which guards them as well.
    """
    accounts = await _opened(tx, {e.event.order.user_id: e.causation() for e in received})
    return accounts, await tx.load(Charge, [e.event.order.id for e in received])


def _decided(charges: Mapping[UUID, Charge], order: OrderState) -> Charge | None:
    """The charge of an order, if it has one. Raises ContradictionError if that is of another user or amount."""
    charge = charges.get(order.id)
    if charge is not None and (charge.user_id, charge.amount) != (order.user_id, order.total):
        raise ContradictionError(f"order {order.id} is of user {charge.user_id}, {charge.amount}")
    return charge


def _outcome(
    charge: Charge, order: OrderState, account: Account
) -> PaymentSucceeded | PaymentRejected:
    if charge.reason is None:
        return PaymentSucceeded(payment=charge.payment(), order=order, account=account.state())
    return PaymentRejected(reason=charge.reason, order=order, account=account.state())


async def _move(
    tx: Transaction,
    commands: Sequence[MoveFunds],
    move: Callable[[Account, int, UUID, datetime], Transfer | Refusal],
) -> list[Transfer | Refusal | NotFound]:
    accounts = await _accounts_of(tx, commands)
    results: list[Transfer | Refusal | NotFound] = []
    actions: list[OperatorAction] = []
    for command in commands:
        account = accounts.get(command.user_id)
        if account is None:
            results.append(NotFound(NO_SUCH_USER))
            continue
        result = move(account, command.amount, tx.new_id(), tx.now)
        if isinstance(result, Transfer):
            by, flow = command.by_operator, command.cause.correlation_id
            tx.publish(_moved(account, result, by), command.cause)
            actions += OperatorAction.of(tx, by, result.kind, result.id, flow)
        results.append(result)
    transfers = [r for r in results if isinstance(r, Transfer)]
    await _save(tx, accounts.values(), transfers, "net_deposits")
    await tx.insert(actions)
    return results


def _moved(
    account: Account, transfer: Transfer, by_operator: ByOperator | None
) -> FundsDeposited | FundsWithdrawn:
    moved = transfer.state(by_operator)
    if transfer.kind == "deposit":
        return FundsDeposited(account=account.state(), transaction=moved)
    return FundsWithdrawn(account=account.state(), transaction=moved)


async def _accounts_of(
    tx: Transaction, commands: Sequence[ViewAccount | MoveFunds]
) -> dict[UUID, Account]:
    """The accounts of the commands, locked; without those of unknown users, whom an operator may name."""
    named = {command.user_id: command.cause for command in commands}
    unproven = named.keys() - {command.user_id for command in commands if command.by_owner}
    if unproven:
        unproven -= (await tx.load(Account, unproven, key="user_id")).keys()
        unproven -= (await tx.load(Holder, unproven)).keys()
    return await _opened(tx, {id: named[id] for id in named if id not in unproven})


async def _opened(tx: Transaction, users: dict[UUID, Causation]) -> dict[UUID, Account]:
    """The users' accounts, locked by one statement; missing ones are opened first.

    No account is locked before all exist, and they are opened in the order of users: transactions that open accounts
    for the same users wait for each other and never deadlock.
    """
    accounts = await tx.lock_all(Account, users, key="user_id")
    if len(accounts) < len(users):
        await _open_missing(tx, users)
        accounts = await tx.lock(Account, users, key="user_id")
    return accounts


async def _open_missing(tx: Transaction, users: dict[UUID, Causation]) -> None:
    known = await tx.load(Account, users, key="user_id")
    missing = sorted(users.keys() - known.keys())
    opening = [Account(id=tx.new_id(), user_id=id, opened_at=tx.now) for id in missing]
    new = await tx.insert_new(opening)
    for account in opening:
        if account.id in new:
            tx.publish(AccountOpened(account=account.state()), users[account.user_id])


async def _save(
    tx: Transaction, accounts: Iterable[Account], transfers: Sequence[Transfer], *more: str
) -> None:
    moved = {transfer.account_id for transfer in transfers}
    await tx.update([a for a in accounts if a.id in moved], "balance", "version", *more)
    await tx.insert(transfers)
