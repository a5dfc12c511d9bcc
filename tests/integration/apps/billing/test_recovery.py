"""What billing has published is written to a restored database, also if billing ran on it meanwhile."""

from collections.abc import Sequence
from uuid import UUID

from uuid_utils.compat import uuid7

from apps.billing.models import Account
from apps.billing.recovery import recover
from chassis.database.transaction import transaction
from chassis.messaging.outbox import GROUP
from chassis.messaging.recovery import Remark, lost_events, recover_events
from events.base import Causation, Envelope, Event
from events.billing import (
    AccountState,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRejected,
    PaymentSucceeded,
    TransactionKind,
    TransactionState,
)
from events.money import to_minor
from events.orders import OrderPlaced, OrderState
from events.users import UserState
from tests.integration.apps.billing.test_ledger import the_books_balance
from tests.support.builders import a_payment, a_user, an_order, now
from tests.support.harness import RunningService
from tests.support.purse import balance, open_with


class History:
    """What billing published of an account, and has lost since."""

    def __init__(self, account: AccountState) -> None:
        self._account = account
        self.lost: list[Envelope[Event]] = []

    def _changed(self, by: int) -> AccountState:
        was = self._account
        changed = {"balance": was.balance + by, "version": was.version + 1}
        self._account = was.model_copy(update=changed)
        return self._account

    def _published(self, event: Event) -> None:
        id = UUID(int=uuid7().int // GROUP * GROUP)
        self.lost.append(Envelope(id, event, now(), Causation("lost")))

    def moved(self, kind: TransactionKind, amount: str) -> None:
        moved = TransactionState(id=uuid7(), kind=kind, amount=to_minor(amount), created_at=now())
        if kind == "deposit":
            account = self._changed(moved.amount)
            self._published(FundsDeposited(account=account, transaction=moved))
        else:
            account = self._changed(-moved.amount)
            self._published(FundsWithdrawn(account=account, transaction=moved))

    def paid(self, order: OrderState) -> None:
        account = self._changed(-order.total)
        self._published(PaymentSucceeded(payment=a_payment(order), order=order, account=account))


async def opened(billing: RunningService, user: UserState, amount: str) -> History:
    await open_with(billing, user, amount)
    async with transaction(billing.database) as tx:
        return History((await tx.load(Account, [user.id], key="user_id"))[user.id].state())


async def recovered(billing: RunningService, lost: Sequence[Envelope[Event]]) -> Sequence[Remark]:
    return await recover_events(billing.database, recover, lost)


async def test_lost_changes_are_written_once_as_they_were(billing: RunningService) -> None:
    user = a_user()
    history = await opened(billing, user, "100.00")
    history.moved("deposit", "50.00")
    history.paid(an_order(total="120.00", user=user))
    history.moved("withdrawal", "10.00")
    for _ in range(2):  # the second time nothing is lost
        assert await recovered(billing, history.lost) == []
        assert await balance(billing, user) == "20.00"
    assert await lost_events(billing.database.fetch, history.lost) == []
    await the_books_balance(billing)


async def test_a_lost_change_follows_what_was_decided_meanwhile(billing: RunningService) -> None:
    user = a_user()
    history = await opened(billing, user, "100.00")
    history.moved("deposit", "50.00")
    history.paid(an_order(total="120.00", user=user))
    history.moved("withdrawal", "10.00")
    async with billing.http(user) as ada:
        answer = await ada.post(f"/account/{user.id}/deposit", json={"amount": "5.00"})
    assert answer.status_code == 201
    remarks = await recovered(billing, history.lost)
    assert [remark.event for remark in remarks] == [envelope.id for envelope in history.lost]
    assert all(remark.written and "not" in remark.text for remark in remarks)
    assert await balance(billing, user) == "25.00"
    await the_books_balance(billing)
    assert await recovered(billing, history.lost) == []
    await billing.is_quiet()  # what is published anew has the versions of now
    assert [e.account.version for e in billing.published_of(FundsDeposited)] == [2, 3, 4]
    assert [e.account.version for e in billing.published_of(PaymentSucceeded)] == [5]
    assert [e.account.version for e in billing.published_of(FundsWithdrawn)] == [6]


async def test_what_contradicts_a_later_decision_is_named_and_stays_lost(
    billing: RunningService,
) -> None:
    user = a_user()
    history = await opened(billing, user, "10.00")
    order = an_order(total="40.00", user=user)
    history.moved("deposit", "50.00")
    history.paid(order)
    history.moved("withdrawal", "15.00")
    await billing.processes(OrderPlaced(order=order))
    assert len(billing.published_of(PaymentRejected)) == 1
    async with billing.http(user) as ada:
        answer = await ada.post(f"/account/{user.id}/withdraw", json={"amount": "10.00"})
    assert answer.status_code == 201
    remarks = await recovered(billing, history.lost)
    [paid] = [remark for remark in remarks if not remark.written]
    assert f"order {order.id} is rejected" in paid.text
    assert await balance(billing, user) == "35.00"
    assert [e.id for e in await lost_events(billing.database.fetch, history.lost)] == [paid.event]
    await the_books_balance(billing)
