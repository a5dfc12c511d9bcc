"""Billing's HTTP bodies."""

from typing import Self
from uuid import UUID

from pydantic import Field

from apps.billing.models import Account, Transfer
from chassis.web.pagination import PageQuery
from chassis.web.schemas import Body, View
from events.base import Moment
from events.billing import TransactionKind
from events.money import CURRENCY, Amount, Money


class AmountBody(Body):
    """How much to put in or take out."""

    amount: Amount


class StatementQuery(PageQuery):
    """Which lines of a statement to list. They are in the order of the account's versions."""

    cursor: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,8}$", description="`nextCursor` of the page before."
    )


class AccountView(View):
    """An account and its balance."""

    account_id: UUID
    user_id: UUID
    balance: Money
    currency: str = Field(examples=[CURRENCY])
    version: int = Field(examples=[2])

    @classmethod
    def of(cls, account: Account) -> Self:
        """An account as it is answered."""
        return cls(
            account_id=account.id,
            user_id=account.user_id,
            balance=account.balance,
            currency=CURRENCY,
            version=account.version,
        )


class ReceiptView(View):
    """What was moved, and the balance afterwards."""

    transaction_id: UUID
    amount: Money
    balance: Money

    @classmethod
    def of(cls, transfer: Transfer) -> Self:
        """A transfer as it is answered to who asked for it."""
        return cls(transaction_id=transfer.id, amount=transfer.amount, balance=transfer.balance)


class TransactionView(View):
    """A line of the statement. `amount` is positive; `kind` tells the direction."""

    transaction_id: UUID
    kind: TransactionKind
    amount: Money
    balance: Money = Field(description="The balance after it.")
    order_id: UUID | None = None
    created_at: Moment

    @classmethod
    def of(cls, transfer: Transfer) -> Self:
        """A transfer as a line of the statement."""
        return cls(
            transaction_id=transfer.id,
            kind=transfer.kind,
            amount=transfer.amount,
            balance=transfer.balance,
            order_id=transfer.order_id,
            created_at=transfer.created_at,
        )
