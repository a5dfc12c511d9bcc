"""What operators may do, and the audit trail of what they have done.

An `operator` may see and change what belongs to others; a `viewer` may see it only. Each change is a row of its own
transaction, which the service can neither change nor remove.
"""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import Depends, Header
from sqlmodel import Field

from chassis.database.tables import Table
from chassis.database.transaction import Transaction
from chassis.web.auth import CurrentUser, OwnerId
from chassis.web.problems import Forbidden
from events.base import ByOperator


class OperatorAction(Table, table=True):
    """A change by an operator: who, what, when and why."""

    __tablename__ = "operator_actions"

    id: UUID = Field(primary_key=True)
    operator_id: UUID
    action: str
    subject: UUID
    """The transaction, order, notification or user that it is about."""
    reason: str | None = None
    correlation_id: str
    created_at: datetime

    @classmethod
    def of(
        cls, tx: Transaction, by: ByOperator | None, action: str, subject: UUID, flow: str
    ) -> list[Self]:
        """The row about a change, if an operator has made it; `flow` is its correlation id."""
        if by is None:
            return []
        id, now = tx.new_id(), tx.now
        return [
            cls(
                id=id,
                action=action,
                subject=subject,
                correlation_id=flow,
                created_at=now,
                **vars(by),
            )
        ]


async def _acting(
    user: CurrentUser,
    reason: Annotated[
        str | None,
        Header(
            alias="Operator-Reason",
            min_length=1,
            max_length=200,
            pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
            description="Why an operator does this, for the audit trail and the customer's statement.",
            examples=["Complaint 1234"],
        ),
    ] = None,
) -> ByOperator | None:
    if user.role == "operator":
        return ByOperator(operator_id=user.id, reason=reason)
    return None


ActingOperator = Annotated[ByOperator | None, Depends(_acting)]
"""The operator who sends a request, with their reason; None for everybody else."""


async def _changed(user_id: OwnerId, user: CurrentUser) -> UUID:
    """The `userId` of a path. Raises NotFound as OwnerId does, and Forbidden for a viewer of somebody else."""
    if user_id != user.id and user.role != "operator":
        raise Forbidden("You may see this, and not change it.")
    return user_id


ChangedOwnerId = Annotated[UUID, Depends(_changed)]
