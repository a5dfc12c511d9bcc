"""The ledger under any sequence of deposits, withdrawals, orders and cancellations, in batches of any size.

Billing's use cases run against a database in memory. After each step the rows of the ledger are checked for consistency
and compared with a simple model that handles one item at a time.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from apps.billing import use_cases
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
from apps.billing.use_cases import MoveFunds, ViewAccount
from events.base import Causation, Envelope, Event
from events.billing import (
    AccountOpened,
    FundsDeposited,
    FundsWithdrawn,
    PaymentRefunded,
    PaymentRejected,
    PaymentSucceeded,
)
from events.money import MAX_AMOUNT, to_text
from events.orders import OrderCancelled, OrderPlaced, OrderState
from events.users import UserRegistered
from tests.support.builders import a_user, an_order, cancelled, now
from tests.support.memory import Memory

CAUSE = Causation("flow")
USERS = [UUID(int=n) for n in (1, 2, 3)]

users = st.sampled_from(USERS)
FULL = st.sampled_from((MAX_BALANCE // 2, MAX_BALANCE))
amounts = st.one_of(st.integers(1, 50), st.integers(1, MAX_AMOUNT), FULL)
moves = st.lists(st.tuples(users, amounts), min_size=1, max_size=6)
totals = st.one_of(st.integers(1, 60), st.integers(1, MAX_AMOUNT), FULL)
ORDERS = 12
numbers = st.lists(st.integers(0, ORDERS - 1), min_size=1, max_size=8)


@dataclass
class SimpleLedger:
    """The model: balances, and the outcome of each order."""

    balances: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    refundable: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    outcomes: dict[UUID, str] = field(default_factory=dict)

    def place(self, order: OrderState) -> str | None:
        """The outcome of an order that arrives; None without a new one."""
        before = self.outcomes.get(order.id)
        if before not in (None, "cancelled"):
            return None
        if before == "cancelled":
            outcome = "order_cancelled"
        elif order.total > self.balances[order.user_id]:
            outcome = "insufficient_funds"
        else:
            outcome = "paid"
            self.balances[order.user_id] -= order.total
            self.refundable[order.user_id] += order.total
        self.outcomes[order.id] = outcome
        return outcome

    def cancel(self, order: OrderState) -> str | None:
        before = self.outcomes.get(order.id)
        if before == "paid":
            self.balances[order.user_id] += order.total
            self.refundable[order.user_id] -= order.total
            self.outcomes[order.id] = "refunded"
            return "refunded"
        self.outcomes.setdefault(order.id, "cancelled")
        return None


class Ledger(RuleBasedStateMachine):
    """Billing, with requests and events in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.expected = SimpleLedger()

    @initialize(totals=st.lists(totals, min_size=ORDERS, max_size=ORDERS))
    def orders_exist(self, totals: list[int]) -> None:
        self.orders = [
            an_order(id=UUID(int=100 + n), user=USERS[n % len(USERS)], total=to_text(total))
            for n, total in enumerate(totals)
        ]

    @rule(wanted=moves)
    def deposit(self, wanted: list[tuple[UUID, int]]) -> None:
        results = self.memory.run(use_cases.deposit, _commands(wanted))
        for (user, amount), result in zip(wanted, results, strict=True):
            if self.expected.balances[user] + self.expected.refundable[user] + amount > MAX_BALANCE:
                assert isinstance(result, BalanceLimit)
                continue
            self.expected.balances[user] += amount
            assert isinstance(result, Transfer)
            assert (result.amount, result.balance) == (amount, self.expected.balances[user])

    @rule(wanted=moves)
    def withdraw(self, wanted: list[tuple[UUID, int]]) -> None:
        results = self.memory.run(use_cases.withdraw, _commands(wanted))
        for (user, amount), result in zip(wanted, results, strict=True):
            fits = amount <= self.expected.balances[user]
            self.expected.balances[user] -= amount if fits else 0
            assert isinstance(result, Transfer if fits else InsufficientFunds)

    @rule(numbers=numbers)
    def orders_arrive(self, numbers: list[int]) -> None:
        """New, known and cancelled orders, and repeated ones in a batch."""
        before = len(self.memory.published)
        placed = [_received(OrderPlaced(order=self.orders[n])) for n in numbers]
        self.memory.run(use_cases.charge_orders, placed)
        expected = [(self.orders[n], self.expected.place(self.orders[n])) for n in numbers]
        assert _outcomes(self.memory.published[before:]) == [
            (order.id, outcome, order.user_id) for order, outcome in expected if outcome
        ]  # fmt: skip

    @rule(numbers=numbers)
    def orders_are_cancelled(self, numbers: list[int]) -> None:
        before = len(self.memory.published)
        received = [_received(OrderCancelled(order=cancelled(self.orders[n]))) for n in numbers]
        self.memory.run(use_cases.refund_orders, received)
        expected = [(self.orders[n], self.expected.cancel(self.orders[n])) for n in numbers]
        found = [(id, outcome) for id, outcome, _ in _outcomes(self.memory.published[before:])]
        assert found == [(order.id, outcome) for order, outcome in expected if outcome]

    @rule(user=users)
    def users_register_and_view(self, user: UUID) -> None:
        self.memory.run(
            use_cases.open_accounts, [_received(UserRegistered(user=a_user(id=user)))] * 2
        )
        [account] = self.memory.run(
            use_cases.view_accounts, [ViewAccount(user, CAUSE, by_owner=True)]
        )
        assert isinstance(account, Account)
        assert account.balance == self.expected.balances[user]

    @invariant()
    def balances_are_as_expected(self) -> None:
        found = {account.user_id: account.balance for account in self.memory.rows(Account)}
        assert found == {user: self.expected.balances[user] for user in found}
        assert not any(b for user, b in self.expected.balances.items() if user not in found)

    @invariant()
    def every_balance_is_within_its_bound(self) -> None:
        for account in self.memory.rows(Account):
            assert 0 <= account.balance <= account.net_deposits <= MAX_BALANCE

    @invariant()
    def every_account_is_the_sum_of_its_transfers(self) -> None:
        for account in self.memory.rows(Account):
            balance, version = 0, 1
            for transfer in self.memory.rows(Transfer):
                if transfer.account_id == account.id:
                    balance += _entries(transfer)[account.id]
                    version += 1
                    assert balance >= 0
                    assert (transfer.balance, transfer.account_version) == (balance, version)
            assert (account.balance, account.version) == (balance, version)

    @invariant()
    def accounts_cash_and_revenue_sum_to_zero(self) -> None:
        totals: dict[UUID, int] = defaultdict(int)
        for transfer in self.memory.rows(Transfer):
            entries = _entries(transfer)
            assert sum(entries.values()) == 0
            for account, amount in entries.items():
                totals[account] += amount
        accounts = sum(account.balance for account in self.memory.rows(Account))
        assert accounts + totals[CASH] + totals[REVENUE] == 0

    @invariant()
    def every_decision_has_its_transfers(self) -> None:
        moved: dict[Any, list[str]] = defaultdict(list)
        for transfer in self.memory.rows(Transfer):
            moved[transfer.order_id].append(transfer.kind)
        wanted = {"paid": ["payment"], "refunded": ["payment", "refund"]}
        for charge in self.memory.rows(Charge):
            assert moved[charge.order_id] == wanted.get(charge.status, [])

    @invariant()
    def every_rejection_was_justified(self) -> None:
        history = {(t.account_id, t.account_version): t.balance for t in self.memory.rows(Transfer)}
        for charge in self.memory.rows(Charge):
            if charge.reason == "insufficient_funds":
                assert charge.balance < charge.amount
                place = (charge.account_id, charge.account_version)
                assert charge.balance == (history[place] if charge.account_version > 1 else 0)

    @invariant()
    def every_transfer_was_published_once(self) -> None:
        published = [
            *(e.transaction.id for e in self.memory.events(FundsDeposited)),
            *(e.transaction.id for e in self.memory.events(FundsWithdrawn)),
            *(e.payment.id for e in self.memory.events(PaymentSucceeded)),
            *(e.refund.id for e in self.memory.events(PaymentRefunded)),
        ]
        assert sorted(published) == sorted(transfer.id for transfer in self.memory.rows(Transfer))
        opened = [event.account.id for event in self.memory.events(AccountOpened)]
        assert sorted(opened) == sorted(account.id for account in self.memory.rows(Account))


def _commands(wanted: list[tuple[UUID, int]]) -> list[MoveFunds]:
    return [MoveFunds(user, amount, CAUSE, by_owner=True) for user, amount in wanted]


def _received(event: Any) -> Envelope[Any]:
    return Envelope(UUID(int=9), event, now(), CAUSE)


def _outcomes(published: list[tuple[Event, Causation]]) -> list[tuple[UUID, str, UUID]]:
    """Order, outcome and user of each event with an outcome."""
    found = []
    for event, cause in published:
        if isinstance(event, AccountOpened):
            continue
        decided = cast("PaymentSucceeded | PaymentRejected | PaymentRefunded", event)
        names = {PaymentSucceeded: "paid", PaymentRefunded: "refunded"}
        outcome = decided.reason if isinstance(decided, PaymentRejected) else names[type(decided)]
        assert cause.causation_id == UUID(int=9)
        found.append((decided.order.id, outcome, decided.account.user_id))
    return found


def _entries(transfer: Transfer) -> dict[UUID, int]:
    """The two entries of a transfer, as in the view `ledger_entries`."""
    return {transfer.debit_account: -transfer.amount, transfer.credit_account: transfer.amount}


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=50, stateful_step_count=20)


def test_a_small_order_behind_a_refused_large_one_is_paid() -> None:
    memory = Memory()
    memory.run(use_cases.deposit, _commands([(USERS[0], 5_000)]))
    orders = [an_order(user=USERS[0], total=total) for total in ("40.00", "20.00", "10.00")]
    memory.run(use_cases.charge_orders, [_received(OrderPlaced(order=order)) for order in orders])
    assert [outcome for _, outcome, _ in _outcomes(memory.published[2:])] == [
        "paid",
        "insufficient_funds",
        "paid",
    ]
