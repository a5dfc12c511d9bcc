"""What billing has published gives its tables back: the same changes again, in the order of the accounts' versions.

If billing ran before it was recovered, an account may have changed otherwise meanwhile. A lost change then follows
those: it keeps its id, amount and time, and is published with the account's new version. Where a rule forbids that, or
a later decision about the order differs, the change is refused.
"""

from collections.abc import Sequence
from typing import cast
from uuid import UUID

from apps.billing.models import Account, Charge, Transfer
from chassis.database.transaction import Transaction
from chassis.messaging.contradictions import ContradictionError
from chassis.messaging.recovery import Remark
from chassis.web.operators import OperatorAction
from chassis.web.problems import Problem
from events.base import Envelope, Event
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)

Moved = FundsDeposited | FundsWithdrawn
Decided = PaymentSucceeded | PaymentRejected | PaymentRefunded
Published = AccountOpened | Moved | Decided


async def recover(tx: Transaction, lost: Sequence[Envelope[Event]]) -> list[Remark]:
    """Write accounts, transfers and charges."""
    own = cast("Sequence[Envelope[Published]]", lost)
    own = sorted(own, key=lambda e: (e.event.account.version, e.time))
    accounts = await _accounts(tx, own)
    charges = await tx.load(Charge, [e.event.order.id for e in own if isinstance(e.event, Decided)])
    stored = set(charges)
    known = await tx.load(Transfer, [id for e in own if (id := _transfer_id(e.event))])
    repeating = _Repeating(accounts, charges, set(known))
    remarks = [remark for e in own if (remark := repeating.remark(tx, e))]
    await tx.update(list(accounts.values()), "balance", "version", "net_deposits")
    await tx.insert(repeating.transfers)
    await tx.insert(_actions(tx, own, {transfer.id for transfer in repeating.transfers}))
    await tx.insert([charge for id, charge in repeating.decided.items() if id not in stored])
    columns = [name for name in Charge.model_fields if name != "order_id"]
    again = [charge for id, charge in repeating.decided.items() if id in stored]
    await tx.update(again, *columns)
    return remarks


async def _accounts(tx: Transaction, own: Sequence[Envelope[Published]]) -> dict[UUID, Account]:
    """The accounts by user, locked; missing ones are opened as they were."""
    users = {e.event.account.user_id: e for e in reversed(own)}
    known = await tx.load(Account, users, key="user_id")
    missing = [e for user, e in users.items() if user not in known]
    await tx.insert_new(
        [
            Account(id=e.event.account.id, user_id=e.event.account.user_id, opened_at=e.time)
            for e in missing
        ]
    )
    return await tx.lock(Account, users, key="user_id")


def _actions(
    tx: Transaction, own: Sequence[Envelope[Published]], written: set[UUID]
) -> list[OperatorAction]:
    """The audit trail of deposits and withdrawals that are written again."""
    return [
        action
        for e in own
        if isinstance(e.event, Moved) and (one := e.event.transaction).id in written
        for action in OperatorAction.of(
            tx, one.by_operator, one.kind, one.id, e.cause.correlation_id
        )
    ]


def _transfer_id(event: Published) -> UUID | None:
    match event:
        case FundsDeposited() | FundsWithdrawn():
            return event.transaction.id
        case PaymentSucceeded():
            return event.payment.id
        case PaymentRefunded():
            return event.refund.id
        case _:
            return None


class _Repeating:
    """Repeats changes on accounts and charges, in memory."""

    def __init__(
        self, accounts: dict[UUID, Account], charges: dict[UUID, Charge], known: set[UUID]
    ) -> None:
        self._accounts = accounts
        self._charges = charges
        self._known = known
        self.transfers: list[Transfer] = []
        self.decided: dict[UUID, Charge] = {}
        """Charges that are new or changed, by order."""

    def remark(self, tx: Transaction, envelope: Envelope[Published]) -> Remark | None:
        """Repeat a change, and publish it if it leaves the account otherwise than it did."""
        event, was = envelope.event, envelope.event.account
        account = self._accounts[was.user_id]
        if _transfer_id(event) in self._known:
            return None
        try:
            transfer = self._repeat(envelope, account)
        except (ContradictionError, Problem) as error:
            return Remark(envelope.id, f"of user {was.user_id} is refused: {error}")
        if transfer is not None:
            self.transfers.append(transfer)
            self._known.add(transfer.id)
            if account.state() != was:
                changed = {"account": account.state()}
                tx.publish(event.model_copy(update=changed), envelope.causation())
        if account.id == was.id and (transfer is None or account.state() == was):
            return None
        text = f"of user {was.user_id} is version {account.version} of account {account.id}"
        return Remark(envelope.id, f"{text}, not {was.version} of {was.id}", written=True)

    def _repeat(self, envelope: Envelope[Published], account: Account) -> Transfer | None:
        match envelope.event:
            case FundsDeposited(transaction=one):
                return _allowed(account.deposit(one.amount, one.id, one.created_at))
            case FundsWithdrawn(transaction=one):
                return _allowed(account.withdraw(one.amount, one.id, one.created_at))
            case PaymentSucceeded() as event:
                return self._pay(event, account)
            case PaymentRejected() as event:
                self._reject(event, envelope, account)
            case PaymentRefunded() as event:
                return self._refund(event, account)
        return None

    def _pay(self, event: PaymentSucceeded, account: Account) -> Transfer | None:
        order, payment = event.order, event.payment
        self._require_undecided(order.id)
        charge, transfer = account.charge(order, payment.id, payment.created_at)
        if transfer is None:
            raise ContradictionError(f"the balance does not cover order {order.id}")
        self._decide(charge)
        return transfer

    def _reject(
        self, event: PaymentRejected, envelope: Envelope[Published], account: Account
    ) -> None:
        order = event.order
        known = self._charges.get(order.id)
        if known is not None and known.status == "rejected":
            return
        self._require_undecided(order.id)
        if event.reason == "insufficient_funds" and order.total <= account.balance:
            raise ContradictionError(f"the balance covers order {order.id}")
        charge = Charge.of(order, account, "rejected", envelope.id, envelope.time)
        charge.reason = event.reason
        self._decide(charge)

    def _refund(self, event: PaymentRefunded, account: Account) -> Transfer:
        refund, charge = event.refund, self._charges.get(event.order.id)
        if charge is None or (charge.status, charge.payment_id) != ("paid", refund.payment_id):
            raise ContradictionError(f"order {event.order.id} has not this payment")
        self._decide(charge)
        return account.refund(charge, refund.id, refund.created_at)

    def _require_undecided(self, order_id: UUID) -> None:
        charge = self._charges.get(order_id)
        if charge is not None and charge.status != "cancelled":
            raise ContradictionError(
                f"order {order_id} is {charge.status} since {charge.created_at:%F %T}"
            )

    def _decide(self, charge: Charge) -> None:
        self._charges[charge.order_id] = self.decided[charge.order_id] = charge


def _allowed(result: Transfer | Problem) -> Transfer:
    if isinstance(result, Problem):
        raise result
    return result
