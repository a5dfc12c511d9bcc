"""What billing refuses."""

from typing import Self

from chassis.web.problems import Problem
from events.money import to_text


class InsufficientFunds(Problem):
    """There is not enough money on the account."""

    status = 403
    reason = "insufficient_funds"

    @classmethod
    def of(cls, balance: int) -> Self:
        """The refusal, with the balance in minor units at that moment."""
        return cls(f"The balance is {to_text(balance)}.", balance=to_text(balance))


class BalanceLimit(Problem):
    """The account cannot hold that much."""

    status = 403
    reason = "balance_limit"
