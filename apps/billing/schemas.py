"""Billing's HTTP bodies."""

from typing import Self
from uuid import UUID

from pydantic import Field

from apps.billing.models import Transfer
from chassis.web.operators import OperatorAction
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

    account_id: UUID = Field(validation_alias="id")
    user_id: UUID
    balance: Money
    currency: str = Field(examples=[CURRENCY])
    version: int = Field(examples=[2])


class ReceiptView(View):
    """A deposit or withdrawal, and the balance after it."""

    transaction_id: UUID = Field(validation_alias="id")
    amount: Money
    balance: Money


class TransactionView(View):
    """A line of the statement. `amount` is positive; `kind` implies the direction."""

    transaction_id: UUID = Field(validation_alias="id")
    kind: TransactionKind
    amount: Money
    balance: Money = Field(description="The balance after it.")
    order_id: UUID | None = None
    created_at: Moment
    operator_id: UUID | None = Field(None, description="The operator who has made it, if one has.")
    operator_reason: str | None = Field(
        None, description="Why, in their words.", examples=["Complaint 1234"]
    )

    @classmethod
    def of(cls, transfer: Transfer, action: OperatorAction | None) -> Self:
        """A transfer, and the operator's action that made it."""
        line = cls.model_validate(transfer)
        if action is None:
            return line
        by = {"operator_id": action.operator_id, "operator_reason": action.reason}
        return line.model_copy(update=by)
