"""Billing, for services that call each other. A debit is one statement: one transaction and one round trip.

An order is decided once, by the primary key of `charges`. So a caller without a response may retry.
"""

from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from uuid_utils.compat import uuid7

from apps.billing.models import REVENUE, Account, Charge, Transfer
from apps.billing.schemas import AccountView, AmountBody, ReceiptView
from bench.baselines.common import service_of
from bench.baselines.parts import sql
from bench.baselines.parts.idempotency import (
    Connection,
    OptionalKey,
    StoredResponse,
    rendering,
    respond_once,
)
from bench.baselines.parts.messages import Decision
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool
from chassis.web.auth import OwnerId
from chassis.web.problems import NotFound
from chassis.web.routing import StrictRoute
from events.billing import AccountState
from events.money import CURRENCY
from events.orders import OrderState

LOCK: Final = statements(Account).where("user_id = $1 FOR NO KEY UPDATE")
SAVE: Final = "UPDATE accounts SET balance = $2, version = $3, net_deposits = $4 WHERE id = $1"

CHARGE: Final = """
WITH account AS (
    SELECT id, balance, version, balance >= $4::bigint AS enough FROM accounts WHERE user_id = $3
    FOR NO KEY UPDATE
), charge AS (
    INSERT INTO charges (order_id, payment_id, user_id, account_id, amount, created_at, status, reason, balance,
                         account_version)
    SELECT $1::uuid, $2::uuid, $3::uuid, id, $4::bigint, $5::timestamptz,
        CASE WHEN enough THEN 'paid' ELSE 'rejected' END,
        CASE WHEN enough THEN NULL ELSE 'insufficient_funds' END,
        CASE WHEN enough THEN balance - $4::bigint ELSE balance END,
        CASE WHEN enough THEN version + 1 ELSE version END
    FROM account
    ON CONFLICT (order_id) DO NOTHING RETURNING *
), debited AS (
    UPDATE accounts SET balance = charge.balance, version = charge.account_version
    FROM charge WHERE accounts.id = charge.account_id AND charge.status = 'paid'
), moved AS (
    INSERT INTO transfers (id, kind, debit_account, credit_account, amount, account_id, account_version, balance,
                           order_id, created_at)
    SELECT payment_id, 'payment', account_id, $6::uuid, amount, account_id, account_version, balance, order_id,
        created_at
    FROM charge WHERE status = 'paid'
)
SELECT * FROM charge
"""
"""`Account.charge` as one statement. The account is locked before it is read, so a rejection records the balance that
was
too low. It returns no row if the order is decided already, or if there is no account."""

router = APIRouter(prefix="/account", route_class=StrictRoute)
internal = APIRouter(prefix="/internal")


@router.get("/{userId}")
async def view_account(user_id: OwnerId, request: Request) -> AccountView:
    """The account of a user. It is opened by the registration or the first use."""
    pool = service_of(request).database.pool
    record = await pool.fetchrow(sql.select(Account, "user_id"), user_id)
    if record is None:
        await _open(pool, user_id)
        record = await pool.fetchrow(sql.select(Account, "user_id"), user_id)
    return AccountView.model_validate(from_record(Account, record))


@router.post("/{userId}/deposit", status_code=201)
async def deposit(
    user_id: OwnerId, body: AmountBody, request: Request, key: OptionalKey
) -> Response:
    """Deposit money."""
    return await _moved(request, user_id, "deposit", body.amount, key)


@router.post("/{userId}/withdraw", status_code=201)
async def withdraw(
    user_id: OwnerId, body: AmountBody, request: Request, key: OptionalKey
) -> Response:
    """Withdraw money, up to the balance."""
    return await _moved(request, user_id, "withdraw", body.amount, key)


async def _moved(
    request: Request,
    user_id: UUID,
    what: Literal["deposit", "withdraw"],
    amount: int,
    key: OptionalKey,
) -> Response:
    async def work(connection: Connection) -> StoredResponse:
        account = await _locked(connection, user_id)
        move = account.deposit if what == "deposit" else account.withdraw
        result = move(amount, uuid7(), datetime.now(UTC))
        if isinstance(result, Transfer):
            changed = (account.balance, account.version, account.net_deposits)
            await connection.execute(SAVE, account.id, *changed)
            await connection.execute(sql.insert(Transfer), *sql.values(result))
        return rendering(ReceiptView.model_validate, 201, None)(request.scope["path"], result)

    return await respond_once(request, key, work)


async def _locked(connection: Connection, user_id: UUID) -> Account:
    record = await connection.fetchrow(LOCK, user_id)
    if record is None:
        await _open(connection, user_id)
        record = await connection.fetchrow(LOCK, user_id)
    return from_record(Account, record)


async def _open(database: "Pool | Connection", user_id: UUID) -> None:
    account = Account(id=uuid7(), user_id=user_id, opened_at=datetime.now(UTC))
    await database.execute(sql.insert(Account), *sql.values(account))


@internal.post("/account/{user_id}", status_code=204)
async def open_account(user_id: UUID, request: Request) -> None:
    """Open the account of a new user."""
    await _open(service_of(request).database.pool, user_id)


@internal.post("/charge")
async def charge_order(request: Request) -> Response:
    """Debit an order or reject it. Idempotent."""
    pool = service_of(request).database.pool
    order = OrderState.model_validate_json(await request.body())
    record = await _decided(pool, order)
    if record is None:
        await _open(pool, order.user_id)
        record = await _decided(pool, order)
    return _decision(record)


async def _decided(pool: Pool, order: OrderState) -> Any:
    now = datetime.now(UTC)
    record = await pool.fetchrow(
        CHARGE, order.id, uuid7(), order.user_id, order.total, now, REVENUE
    )
    return record or await pool.fetchrow(sql.select(Charge, "order_id"), order.id)


@internal.get("/charge/{order_id}")
async def view_charge(order_id: UUID, request: Request) -> Response:
    """The decision about an order."""
    pool = service_of(request).database.pool
    record = await pool.fetchrow(sql.select(Charge, "order_id"), order_id)
    if record is None:
        raise NotFound("Nothing was decided about this order.")
    return _decision(record)


def _decision(record: Any) -> Response:
    account = AccountState(
        id=record["account_id"],
        user_id=record["user_id"],
        balance=record["balance"],
        currency=CURRENCY,
        version=record["account_version"],
    )
    decision = Decision(
        order_id=record["order_id"],
        amount=record["amount"],
        status=record["status"],
        reason=record["reason"],
        account=account,
    )
    return Response(decision.model_dump_json(), media_type="application/json")
