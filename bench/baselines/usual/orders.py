"""Orders, as usual: accepts, tells of it, and hears what became of it."""

from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter, Request, Response
from faststream.rabbit.annotations import RabbitMessage
from uuid_utils.compat import uuid7

from apps.orders.api import list_orders, view_order
from apps.orders.models import Order
from apps.orders.schemas import OrderBody, OrderView
from bench.baselines.common import cause_of, create_app
from bench.baselines.parts import keys
from bench.baselines.parts.callees import callees
from bench.baselines.parts.once import Once
from bench.baselines.usual.session import Session, answered, sessions_of
from bench.baselines.usual.wiring import broker_of, subscription, working
from chassis.web.auth import CurrentUser
from chassis.web.commands import StoredResponse, rendering
from chassis.web.routing import StrictRoute
from events.billing import PaymentRejected, PaymentSucceeded
from events.orders import OrderPlaced

sessions = sessions_of("orders")
broker = broker_of("orders")
router = APIRouter(prefix="/order", route_class=StrictRoute)


@router.post("/create", status_code=201)
async def create_order(body: OrderBody, user: CurrentUser, request: Request, key: Once) -> Response:
    """Place an order. The answer comes at once, with status `pending`."""

    async def work(session: Session) -> StoredResponse:
        order = Order.place(uuid7(), user.id, body.total_price, datetime.now(UTC))
        session.insert(order)
        session.say(OrderPlaced(order=order.state()), cause_of(request))
        answer = rendering(OrderView.of, 201, lambda order: f"/order/{order.id}")
        return answer(request.scope["path"], order)

    return await answered(sessions, key, work)


router.add_api_route("/{orderId}", view_order, methods=["GET"])
router.add_api_route("", list_orders, methods=["GET"])


@broker.subscriber(**subscription("orders", PaymentSucceeded))
async def mark_as_paid(payment: PaymentSucceeded, message: RabbitMessage) -> None:
    """The order is paid."""
    async with sessions.begin() as session:
        if await session.heard_before(message.message_id):
            return
        order = await session.find(Order, lock=True, id=payment.order.id)
        assert order is not None
        order.pay(datetime.now(UTC))
        session.save(order)


@broker.subscriber(**subscription("orders", PaymentRejected))
async def mark_as_rejected(refusal: PaymentRejected, message: RabbitMessage) -> None:
    """The order will not be paid."""
    async with sessions.begin() as session:
        if await session.heard_before(message.message_id):
            return
        order = await session.find(Order, lock=True, id=refusal.order.id)
        assert order is not None
        order.reject(refusal.reason, datetime.now(UTC))
        session.save(order)


app = create_app(
    "orders",
    [router],
    [callees.open, keys.fetched, partial(working, sessions=sessions, broker=broker)],
)
