"""Orders of the usual build: accepts an order, publishes it, and consumes its outcome."""

from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter, Request, Response
from faststream.rabbit.annotations import RabbitMessage
from uuid_utils.compat import uuid7

from apps.orders.api import list_orders, view_order
from apps.orders.models import Order, Outcome
from apps.orders.schemas import OrderBody, OrderView
from bench.baselines.common import cause_of, create_app
from bench.baselines.parts import keys
from bench.baselines.parts.idempotency import OptionalKey, StoredResponse, rendering
from bench.baselines.parts.services import services
from bench.baselines.usual.broker import broker_of, messaging, subscription
from bench.baselines.usual.session import Session, respond_once, sessions_of
from chassis.web.auth import CurrentUser
from chassis.web.routing import StrictRoute
from events.billing import PaymentRejected, PaymentSucceeded
from events.orders import OrderPlaced

sessions = sessions_of("orders")
broker = broker_of("orders")
router = APIRouter(prefix="/order", route_class=StrictRoute)


@router.post("/create", status_code=201)
async def create_order(
    body: OrderBody, user: CurrentUser, request: Request, key: OptionalKey
) -> Response:
    """Place an order. The response has the status `pending`."""

    async def work(session: Session) -> StoredResponse:
        order = Order.place(uuid7(), user.id, body.total_price, datetime.now(UTC))
        session.insert(order)
        session.publish(OrderPlaced(order=order.state()), cause_of(request))
        answer = rendering(OrderView.model_validate, 201, lambda order: f"/order/{order.id}")
        return answer(request.scope["path"], order)

    return await respond_once(sessions, key, work)


router.add_api_route("/{orderId}", view_order, methods=["GET"])
router.add_api_route("", list_orders, methods=["GET"])


@broker.subscriber(**subscription("orders", PaymentSucceeded))
async def mark_as_paid(payment: PaymentSucceeded, message: RabbitMessage) -> None:
    """The order is paid."""
    async with sessions.begin() as session:
        if await session.is_duplicate(message.message_id):
            return
        order = await session.find(Order, lock=True, id=payment.order.id)
        assert order is not None
        order.settle(Outcome("paid", now := datetime.now(UTC)), now)
        session.save(order)


@broker.subscriber(**subscription("orders", PaymentRejected))
async def mark_as_rejected(refusal: PaymentRejected, message: RabbitMessage) -> None:
    """The order is rejected."""
    async with sessions.begin() as session:
        if await session.is_duplicate(message.message_id):
            return
        order = await session.find(Order, lock=True, id=refusal.order.id)
        assert order is not None
        order.settle(Outcome("rejected", now := datetime.now(UTC), refusal.reason), now)
        session.save(order)


app = create_app(
    "orders",
    [router],
    [services.open, keys.refreshing, partial(messaging, sessions=sessions, broker=broker)],
)
