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
    """The amount to deposit or withdraw."""

    amount: Amount


class StatementQuery(PageQuery):
    """The query of a statement, which is in the order of the account's versions."""

    cursor: str | None = Field(
        None, pattern=r"^[1-9][0-9]{0,8}$", description="`nextCursor` of the previous page."
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
        """The view of an account."""
        return cls(
            account_id=account.id,
            user_id=account.user_id,
            balance=account.balance,
            currency=CURRENCY,
            version=account.version,
        )


class ReceiptView(View):
    """A deposit or withdrawal, and the balance after it."""

    transaction_id: UUID
    amount: Money
    balance: Money

    @classmethod
    def of(cls, transfer: Transfer) -> Self:
        """The receipt of a transfer."""
        return cls(transaction_id=transfer.id, amount=transfer.amount, balance=transfer.balance)


class TransactionView(View):
    """A line of the statement. `amount` is positive; `kind` implies the direction."""

    transaction_id: UUID
    kind: TransactionKind
    amount: Money
    balance: Money = Field(description="The balance after it.")
    order_id: UUID | None = None
    created_at: Moment

    @classmethod
    def of(cls, transfer: Transfer) -> Self:
        """The line of a transfer."""
        return cls(
            transaction_id=transfer.id,
            kind=transfer.kind,
            amount=transfer.amount,
            balance=transfer.balance,
            order_id=transfer.order_id,
            created_at=transfer.created_at,
        )
