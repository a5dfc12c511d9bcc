"""Money near its bounds: no balance exceeds MAX_BALANCE, no refund is refused, every event is readable."""

import json
from typing import Any
from uuid import UUID

import jsonschema_rs
from hypothesis import given
from hypothesis import strategies as st

from apps.billing import use_cases
from apps.billing.models import MAX_BALANCE, Account, Charge
from apps.billing.use_cases import MoveFunds
from events import contracts
from events.base import Causation, Envelope
from events.money import MAX_AMOUNT, to_text
from events.orders import OrderCancelled, OrderPlaced
from tests.support.builders import an_order, cancelled, now
from tests.support.memory import Memory

CAUSE = Causation("flow")
ADA = UUID(int=1)
CONTRACTS = {
    key: jsonschema_rs.Draft202012Validator(published["schema"])
    for key, published in contracts.read(contracts.PUBLISHED).items()
}

amounts = st.one_of(
    st.sampled_from((1, MAX_BALANCE // 2, MAX_BALANCE - 1, MAX_BALANCE)), st.integers(1, MAX_AMOUNT)
)
steps = st.one_of(
    st.tuples(st.sampled_from(("deposit", "withdraw", "order")), amounts),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
)


class Customer:
    """One customer's account, and what is done to it step by step."""

    def __init__(self) -> None:
        self.billing = Memory()
        self.orders: list[OrderPlaced] = []

    def does(self, step: str, amount: int) -> None:
        command = MoveFunds(ADA, amount, CAUSE, by_owner=True)
        if step == "deposit":
            self.billing.run(use_cases.deposit, [command])
        elif step == "withdraw":
            self.billing.run(use_cases.withdraw, [command])
        elif step == "order":
            number = UUID(int=100 + len(self.orders))
            self.orders.append(
                OrderPlaced(order=an_order(id=number, user=ADA, total=to_text(amount)))
            )
            self._received(use_cases.charge_orders, self.orders[-1])
        elif amount < len(self.orders):
            order = cancelled(self.orders[amount].order)
            self._received(use_cases.refund_orders, OrderCancelled(order=order))

    def _received(self, use_case: Any, event: OrderPlaced | OrderCancelled) -> None:
        self.billing.run(use_case, [Envelope(UUID(int=9), event, now(), CAUSE)])


class TestBounds:
    """Billing, with the highest amounts in any order."""

    @given(st.lists(steps, min_size=3, max_size=25))
    def test_every_order_can_be_refunded_and_every_event_read(
        self, wanted: list[tuple[str, int]]
    ) -> None:
        ada = Customer()
        for step in (*wanted, *(("cancel", n) for n in range(30))):
            ada.does(*step)
            for account in ada.billing.rows(Account):
                assert 0 <= account.balance <= account.net_deposits <= MAX_BALANCE
        assert {c.status for c in ada.billing.rows(Charge)} <= {"refunded", "rejected"}
        for event, _ in ada.billing.published:
            body = event.model_dump_json()
            assert type(event).model_validate_json(body) == event
            CONTRACTS[event.key].validate(json.loads(body))
