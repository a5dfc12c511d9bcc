"""What must hold whatever has happened: the invariants, in one table. They judge facts, without I/O."""

from collections.abc import Collection
from typing import Final

from ops.audit.copies import every_projection_equals_its_owners_state
from ops.audit.facts import Facts
from ops.audit.findings import NUMBERS, Finding, Invariant
from ops.audit.letters import every_outcome_has_its_letter
from ops.audit.money import (
    every_refusal_was_justified,
    ledger_adds_up,
    no_balance_was_ever_below_zero,
    paid_orders_and_debits_are_the_same,
)
from ops.audit.orders import every_accepted_order_has_one_outcome
from ops.audit.travel import nothing_is_left_over, what_was_told_was_heard

INVARIANTS: Final = (
    Invariant(1, "the ledger adds up", ledger_adds_up),
    Invariant(2, "no balance was ever below zero", no_balance_was_ever_below_zero),
    Invariant(3, "every accepted order has one outcome", every_accepted_order_has_one_outcome),
    Invariant(4, "paid orders and debits are the same", paid_orders_and_debits_are_the_same),
    Invariant(5, "every refusal was justified", every_refusal_was_justified),
    Invariant(6, "every outcome has its letter", every_outcome_has_its_letter),
    Invariant(
        7, "every projection equals its owner's state", every_projection_equals_its_owners_state
    ),
    Invariant(8, "nothing is left over", nothing_is_left_over),
    Invariant(9, "what was told was heard", what_was_told_was_heard),
)


def judge(facts: Facts, numbers: Collection[int] = NUMBERS) -> dict[int, list[Finding]]:
    """What is wrong, by the number of the invariant; each finding once."""
    return {
        one.number: list(dict.fromkeys(one.holds(facts)))
        for one in INVARIANTS
        if one.number in numbers
    }


def findings(facts: Facts) -> list[str]:
    """What is wrong, a line each; empty if every invariant holds."""
    judged = judge(facts)
    return [
        f"{one.number} {one.name}: {finding.text}"
        for one in INVARIANTS
        for finding in judged[one.number]
    ]
