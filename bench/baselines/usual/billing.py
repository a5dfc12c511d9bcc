"""Billing of the usual build: opens accounts, moves money, debits orders one by one."""

from datetime import UTC, datetime
from functools import partial
from typing import Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from faststream.rabbit.annotations import RabbitMessage
from uuid_utils.compat import uuid7

from apps.billing.models import Account, Charge, Transfer
from apps.billing.schemas import AccountView, AmountBody, ReceiptView
from bench.baselines.common import create_app
from bench.baselines.parts import keys
from bench.baselines.parts.idempotency import OptionalKey, StoredResponse, rendering
from bench.baselines.parts.services import services
from bench.baselines.usual.broker import broker_of, causation, messaging, subscription
from bench.baselines.usual.session import Session, respond_once, sessions_of
from chassis.web.auth import OwnerId
from chassis.web.routing import StrictRoute
from events.billing import PaymentRejected, PaymentSucceeded
from events.orders import OrderPlaced
from events.users import UserRegistered

sessions = sessions_of("billing")
broker = broker_of("billing")
router = APIRouter(prefix="/account", route_class=StrictRoute)


@router.get("/{userId}")
async def view_account(user_id: OwnerId) -> AccountView:
    """The account of a user. It is opened by the registration or the first use."""
    async with sessions.begin() as session:
        return AccountView.model_validate(await _account(session, user_id))


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
    async def work(session: Session) -> StoredResponse:
        account = await _account(session, user_id, lock=True)
        move = account.deposit if what == "deposit" else account.withdraw
        result = move(amount, uuid7(), datetime.now(UTC))
        if isinstance(result, Transfer):
            session.save(account)
            session.insert(result)
        return rendering(ReceiptView.model_validate, 201, None)(request.scope["path"], result)

    return await respond_once(sessions, key, work)


async def _account(session: Session, user_id: UUID, *, lock: bool = False) -> Account:
    account = await session.find(Account, lock=lock, user_id=user_id)
    if account is None:
        new = Account(id=uuid7(), user_id=user_id, opened_at=datetime.now(UTC))
        await session.insert_if_new(new)
        account = await session.find(Account, lock=lock, user_id=user_id)
    assert account is not None
    return account


@broker.subscriber(**subscription("billing", UserRegistered))
async def open_the_account(registered: UserRegistered, message: RabbitMessage) -> None:
    """Open the account of a new user."""
    async with sessions.begin() as session:
        if not await session.is_duplicate(message.message_id):
            await _account(session, registered.user.id)


@broker.subscriber(**subscription("billing", OrderPlaced))
async def debit(placed: OrderPlaced, message: RabbitMessage) -> None:
    """Debit an order or reject it."""
    async with sessions.begin() as session:
        if await session.is_duplicate(message.message_id):
            return
        account = await _account(session, placed.order.user_id, lock=True)
        charge, transfer = account.charge(placed.order, uuid7(), datetime.now(UTC))
        session.insert(charge)
        if transfer is not None:
            session.save(account)
            session.insert(transfer)
        session.publish(_outcome(placed, charge, account), causation(message))


def _outcome(
    placed: OrderPlaced, charge: Charge, account: Account
) -> PaymentSucceeded | PaymentRejected:
    order, state = placed.order, account.state()
    if charge.reason is None:
        return PaymentSucceeded(payment=charge.payment(), order=order, account=state)
    return PaymentRejected(reason=charge.reason, order=order, account=state)


app = create_app(
    "billing",
    [router],
    [services.open, keys.refreshing, partial(messaging, sessions=sessions, broker=broker)],
)
