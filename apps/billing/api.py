"""The HTTP API of billing."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlmodel import col, select

from apps.billing import use_cases
from apps.billing.models import Account, BalanceLimit, InsufficientFunds, Transfer
from apps.billing.schemas import (
    AccountView,
    AmountBody,
    ReceiptView,
    StatementQuery,
    TransactionView,
)
from apps.billing.use_cases import MoveFunds, ViewAccount
from chassis.web.auth import CurrentUser, OwnerId
from chassis.web.commands import KeylessCommands, UserCommands
from chassis.web.dependencies import ReadDatabase
from chassis.web.operators import ActingOperator, ChangedOwnerId, OperatorAction
from chassis.web.pagination import Page, page_of
from chassis.web.problems import (
    Forbidden,
    Invalid,
    KeyReused,
    NotFound,
    Unauthorized,
    Unavailable,
    documented,
)
from chassis.web.routing import StrictRoute

router = APIRouter(prefix="/account", tags=["accounts"], route_class=StrictRoute)

READING = documented(Unauthorized, NotFound, Invalid)
WRITING = documented(Unauthorized, Forbidden, NotFound, Invalid, KeyReused, Unavailable)


@router.get("/{userId}", response_model=AccountView, responses=READING)
async def view_account(user_id: OwnerId, user: CurrentUser, commands: KeylessCommands) -> Response:
    """A user's account. Registration opens it, or its first use."""
    command = ViewAccount(user_id, commands.cause, user.id == user_id)
    return await commands.execute(use_cases.view_accounts, command, AccountView.model_validate)


@router.post(
    "/{userId}/deposit",
    status_code=201,
    response_model=ReceiptView,
    responses=WRITING | documented(BalanceLimit),
)
async def deposit(
    user_id: ChangedOwnerId,
    body: AmountBody,
    user: CurrentUser,
    commands: UserCommands,
    by_operator: ActingOperator,
) -> Response:
    """Deposit an amount."""
    command = MoveFunds(user_id, body.amount, commands.cause, user.id == user_id, by_operator)
    return await commands.execute(
        use_cases.deposit, command, ReceiptView.model_validate, body=body, status=201
    )


@router.post(
    "/{userId}/withdraw",
    status_code=201,
    response_model=ReceiptView,
    responses=WRITING | documented(InsufficientFunds),
)
async def withdraw(
    user_id: ChangedOwnerId,
    body: AmountBody,
    user: CurrentUser,
    commands: UserCommands,
    by_operator: ActingOperator,
) -> Response:
    """Withdraw an amount, if the balance covers it."""
    command = MoveFunds(user_id, body.amount, commands.cause, user.id == user_id, by_operator)
    return await commands.execute(
        use_cases.withdraw, command, ReceiptView.model_validate, body=body, status=201
    )


@router.get("/{userId}/transactions", responses=READING)
async def list_transactions(
    user_id: OwnerId, query: Annotated[StatementQuery, Query()], database: ReadDatabase
) -> Page[TransactionView]:
    """The statement of an account, newest first."""
    statement = (
        select(Transfer, OperatorAction)
        .outerjoin(OperatorAction, col(OperatorAction.subject) == col(Transfer.id))
        .join(Account, col(Account.id) == col(Transfer.account_id))
        .where(Account.user_id == user_id)
        .order_by(col(Transfer.account_version).desc())
        .limit(query.limit + 1)
    )
    if query.cursor is not None:
        statement = statement.where(Transfer.account_version < int(query.cursor))
    async with database.reading() as session:
        lines = (await session.exec(statement)).all()
    return page_of(
        lines,
        query.limit,
        lambda line: TransactionView.of(*line),
        cursor=lambda line: str(line[0].account_version),
    )
