"""Door 1: orders' HTTP routes."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlmodel import col, select

from apps.orders import use_cases
from apps.orders.admission import admission
from apps.orders.models import Order
from apps.orders.problems import OrderAlreadyRejected, PaymentRefused
from apps.orders.schemas import OrderBody, OrderQuery, OrderView
from apps.orders.use_cases import CancelOrder, PlaceOrder
from apps.orders.watch import changes
from chassis.web.auth import CurrentUser, User
from chassis.web.commands import UserCommands, respond
from chassis.web.idempotency import Answer
from chassis.web.openapi import located
from chassis.web.problems import (
    Invalid,
    KeyReused,
    NotFound,
    Unauthorized,
    Unavailable,
    documented,
)
from chassis.web.routing import StrictRoute, guarded
from chassis.web.schemas import Page, page_of

log = structlog.get_logger(__name__)
router = APIRouter(prefix="/order", tags=["orders"], route_class=StrictRoute)

READING = documented(Unauthorized, NotFound, Invalid)
WRITING = documented(Unauthorized, Invalid, KeyReused, Unavailable)

STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Server-sent events: `event` is the status, `id` the version, `data` the order as JSON.",
        "content": {
            "text/event-stream": {"example": 'event: paid\nid: 2\ndata: {"orderId": "..."}\n\n'}
        },
    }
}

WAIT_LIMIT_SECONDS: Final = 30

_PREFERENCES = re.compile(r'(?:[^,"]|"[^"]*")+')
_WAIT = re.compile(r'\s*wait\s*=\s*("?)([0-9]{1,9})\1\s*(?:;.*)?', re.IGNORECASE)

OrderId = Annotated[UUID, Path(alias="orderId")]
Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        max_length=100,
        description="RFC 7240: `wait=N` waits up to N (at most 30) seconds for the outcome.",
        examples=["wait=10"],
    ),
]


@router.post(
    "/create",
    status_code=201,
    response_model=OrderView,
    responses=WRITING
    | documented(PaymentRefused)
    | located(201)
    | {202: {"model": OrderView, "description": "Accepted; the outcome did not come in time."}},
)
@guarded(admission.refusal)
async def create_order(
    body: OrderBody,
    user: CurrentUser,
    commands: UserCommands,
    request: Request,
    prefer: Prefer = None,
) -> Response:
    """Place an order. Without `Prefer: wait` the answer comes at once, with status `pending`."""
    command = PlaceOrder(user.id, body.total_price, commands.cause)
    answer = await commands.submit(
        use_cases.place_orders,
        command,
        OrderView.of,
        status=201,
        location=lambda order: f"/order/{order.id}",
    )
    wait = _wait(prefer)
    if wait is None or answer.status != 201:
        return respond(answer)
    try:
        order = await _outcome(request, UUID(json.loads(answer.body)["orderId"]), wait)
    except Exception as error:
        # Whatever keeps the outcome from us: the order is placed, and nobody may be told to place it again.
        log.warning("orders.outcome_not_read", error=repr(error))
        order = None
    return _settled(order, answer, wait)


def _wait(prefer: str | None) -> int | None:
    """Seconds of the first `wait=N` in a Prefer header; everything else is ignored, as the RFC wants."""
    for preference in _PREFERENCES.findall(prefer or ""):
        if found := _WAIT.fullmatch(preference):
            return min(int(found[2]), WAIT_LIMIT_SECONDS)
    return None


async def _outcome(request: Request, order_id: UUID, wait: float) -> Order:
    """The order once it is settled, or as it is when the time is over."""
    async with changes.of(order_id) as queue:
        order = await _read(request, order_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while order.pending and (change := await queue.get()):
                    order = change
    return order


def _settled(order: Order | None, answer: Answer, wait: int) -> Response:
    """The answer to who has waited; without an order it is what was known before."""
    applied = {**answer.headers, "Preference-Applied": f"wait={wait}"}
    if order is None:
        return Response(answer.body, 202, headers=applied, media_type="application/json")
    if order.status == "rejected":
        raise PaymentRefused(headers=applied, orderId=str(order.id), reason=order.reason)
    status = 202 if order.pending else 201
    body = OrderView.of(order).model_dump_json()
    return Response(body, status, headers=applied, media_type="application/json")


@router.get("/{orderId}", responses=READING)
async def view_order(order_id: OrderId, user: CurrentUser, request: Request) -> OrderView:
    """An order as it is now."""
    return OrderView.of(await _owned(request, order_id, user))


@router.get("", responses=READING)
async def list_orders(
    query: Annotated[OrderQuery, Query()], user: CurrentUser, request: Request
) -> Page[OrderView]:
    """Your orders, newest first; an operator sees everybody's."""
    statement = select(Order).order_by(col(Order.id).desc()).limit(query.limit + 1)
    if user.role != "operator":
        statement = statement.where(Order.user_id == user.id)
    if query.status is not None:
        statement = statement.where(Order.status == query.status)
    if (before := query.before()) is not None:
        statement = statement.where(Order.id < before)
    async with request.app.state.service.database.reading() as session:
        rows = (await session.exec(statement)).all()
    items, cursor = page_of(rows, query.limit, OrderView.of)
    return Page(items=items, next_cursor=cursor)


@router.post(
    "/{orderId}/cancel",
    response_model=OrderView,
    responses=WRITING | documented(NotFound, OrderAlreadyRejected),
)
async def cancel_order(order_id: OrderId, user: CurrentUser, commands: UserCommands) -> Response:
    """Cancel an order that is pending or paid; what was debited comes back. Again: the same answer."""
    owner = None if user.role == "operator" else user.id
    command = CancelOrder(order_id, owner, commands.cause)
    return await commands.run(use_cases.cancel_orders, command, OrderView.of)


async def _visible(order_id: OrderId, user: CurrentUser, request: Request) -> Order:
    """The order of a path. As a dependency it answers 404 before a stream has begun."""
    return await _owned(request, order_id, user)


@router.get("/{orderId}/events", response_class=EventSourceResponse, responses=READING | STREAM)
async def follow_order(
    visible: Annotated[Order, Depends(_visible)], request: Request
) -> AsyncIterator[ServerSentEvent]:
    """The order as it is, then each change, as server-sent events; ends once it is no longer pending."""
    async with changes.of(visible.id) as queue:
        order = await _read(request, visible.id)
        yield _sent(order)
        while order.pending and (change := await queue.get()):
            if change.version > order.version:
                order = change
                yield _sent(order)


def _sent(order: Order) -> ServerSentEvent:
    return ServerSentEvent(data=OrderView.of(order), event=order.status, id=str(order.version))


async def _owned(request: Request, order_id: UUID, user: User) -> Order:
    order = await _read(request, order_id)
    if not user.may_see(order.user_id):
        raise NotFound("There is no such order.")
    return order


async def _read(request: Request, order_id: UUID) -> Order:
    async with request.app.state.service.database.reading() as session:
        order: Order | None = await session.get(Order, order_id)
    if order is None:
        raise NotFound("There is no such order.")
    return order
