"""The rules of billing's models."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError

from apps.billing.models import (
    CASH,
    MAX_BALANCE,
    REVENUE,
    Account,
    BalanceLimit,
    Charge,
    InsufficientFunds,
    Transfer,
)
from events.billing import AccountState
from events.money import to_text
from events.orders import OrderState
from tests.support.builders import an_order

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
ID, OTHER_ID = UUID(int=10), UUID(int=11)


def an_account(balance: int = 0, version: int = 1) -> Account:
    return Account(
        id=UUID(int=1000),
        user_id=UUID(int=2000),
        balance=balance,
        version=version,
        opened_at=NOW,
        net_deposits=balance,
    )


def moved(transfer: object) -> Transfer:
    assert isinstance(transfer, Transfer)
    return transfer


class TestDeposit:
    def test_a_deposit_comes_from_cash_and_raises_balance_and_version(self) -> None:
        account = an_account(balance=5, version=7)
        transfer = moved(account.deposit(100, ID, NOW))

        assert (account.balance, account.version) == (105, 8)
        assert (transfer.debit_account, transfer.credit_account) == (CASH, account.id)
        assert (transfer.balance, transfer.account_version) == (105, 8)
        assert (transfer.id, transfer.kind, transfer.amount) == (ID, "deposit", 100)
        assert (transfer.created_at, transfer.order_id) == (NOW, None)

    def test_a_deposit_may_reach_but_not_exceed_the_balance_limit(self) -> None:
        account = an_account(balance=MAX_BALANCE - 1)

        assert isinstance(account.deposit(2, ID, NOW), BalanceLimit)
        assert (account.balance, account.version) == (MAX_BALANCE - 1, 1)
        moved(account.deposit(1, ID, NOW))
        assert account.balance == MAX_BALANCE

    def test_a_deposit_leaves_room_for_the_refund_of_every_payment(self) -> None:
        account = an_account(balance=MAX_BALANCE)
        order = an_order(total=to_text(MAX_BALANCE), user=account.user_id)
        charge, _ = account.charge(order, ID, NOW)

        assert isinstance(account.deposit(1, OTHER_ID, NOW), BalanceLimit)
        account.refund(charge, OTHER_ID, LATER)
        assert account.balance == MAX_BALANCE

    def test_a_withdrawal_makes_room_for_a_deposit(self) -> None:
        account = an_account(balance=MAX_BALANCE)
        moved(account.withdraw(5, ID, NOW))
        assert isinstance(account.deposit(6, ID, NOW), BalanceLimit)
        moved(account.deposit(5, ID, NOW))


class TestWithdraw:
    def test_a_withdrawal_goes_to_cash(self) -> None:
        account = an_account(balance=100)
        transfer = moved(account.withdraw(40, ID, NOW))

        assert (account.balance, account.version) == (60, 2)
        assert (transfer.debit_account, transfer.credit_account) == (account.id, CASH)
        assert (transfer.kind, transfer.balance) == ("withdrawal", 60)

    def test_the_whole_balance_may_be_withdrawn(self) -> None:
        account = an_account(balance=100)
        moved(account.withdraw(100, ID, NOW))
        assert account.balance == 0

    def test_an_uncovered_withdrawal_is_refused_and_changes_nothing(self) -> None:
        account = an_account(balance=100)
        refusal = account.withdraw(101, ID, NOW)

        assert isinstance(refusal, InsufficientFunds)
        assert (account.balance, account.version) == (100, 1)
        document = refusal.document("/account/1/withdraw")
        assert (document["status"], document["reason"]) == (403, "insufficient_funds")
        assert document["balance"] == "1.00"


class TestCharge:
    def test_a_covered_order_is_paid_to_revenue(self) -> None:
        account = an_account(balance=10_000)
        order = an_order(total="30.00", user=account.user_id)

        charge, transfer = account.charge(order, ID, NOW)

        assert (account.balance, account.version) == (7_000, 2)
        assert (charge.status, charge.reason, charge.payment_id) == ("paid", None, ID)
        assert (charge.balance, charge.account_version) == (7_000, 2)
        payment = moved(transfer)
        assert (payment.debit_account, payment.credit_account) == (account.id, REVENUE)
        assert (payment.kind, payment.order_id, payment.amount) == ("payment", order.id, 3_000)

    def test_an_order_for_the_whole_balance_is_paid(self) -> None:
        account = an_account(balance=3_000)
        charge, _ = account.charge(an_order(total="30.00"), ID, NOW)
        assert (charge.status, account.balance) == ("paid", 0)

    def test_a_rejection_records_the_balance_at_that_moment(self) -> None:
        account = an_account(balance=2_999, version=4)
        charge, transfer = account.charge(an_order(total="30.00"), ID, NOW)

        assert transfer is None
        assert (charge.status, charge.reason) == ("rejected", "insufficient_funds")
        assert (charge.balance, charge.account_version, charge.amount) == (2_999, 4, 3_000)
        assert (account.balance, account.version) == (2_999, 4)

    def test_the_payment_in_events_matches_the_charge(self) -> None:
        order = an_order(total="30.00")
        charge, _ = an_account(balance=3_000).charge(order, ID, NOW)
        payment = charge.payment()
        assert (payment.id, payment.order_id, payment.amount) == (ID, order.id, 3_000)
        assert payment.created_at == NOW


class TestRefund:
    @pytest.fixture
    def order(self) -> OrderState:
        return an_order(total="30.00")

    def test_a_refund_comes_back_from_revenue(self, order: OrderState) -> None:
        account = an_account(balance=3_000)
        charge, _ = account.charge(order, ID, NOW)

        transfer = account.refund(charge, OTHER_ID, LATER)

        assert (account.balance, account.version) == (3_000, 3)
        assert (transfer.debit_account, transfer.credit_account) == (REVENUE, account.id)
        assert (transfer.kind, transfer.order_id) == ("refund", order.id)
        assert charge.status == "refunded"
        refund = charge.refunded()
        assert (refund.id, refund.payment_id, refund.order_id) == (OTHER_ID, ID, order.id)
        assert (refund.amount, refund.created_at) == (3_000, LATER)

    def test_a_charge_without_a_refund_has_no_refund_state(self, order: OrderState) -> None:
        charge, _ = an_account(balance=3_000).charge(order, ID, NOW)
        with pytest.raises(ValidationError):
            charge.refunded()

    def test_a_tombstone_moves_no_money(self, order: OrderState) -> None:
        account = an_account(balance=3_000)
        charge = Charge.of(order, account, "cancelled", ID, NOW)
        assert (charge.status, charge.amount, charge.balance) == ("cancelled", 3_000, 3_000)
        assert account.balance == 3_000


def test_the_account_in_events_has_balance_and_version() -> None:
    account = an_account(balance=7_000, version=3)
    assert account.state() == AccountState(
        id=account.id, user_id=account.user_id, balance=7_000, currency="EUR", version=3
    )
