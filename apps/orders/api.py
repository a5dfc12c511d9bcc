"""The HTTP API of orders."""

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
from pydantic import BaseModel
from sqlmodel import col, select

from apps.orders import use_cases
from apps.orders.admission import Admission
from apps.orders.models import Order, OrderAlreadyRejected, PaymentRefused
from apps.orders.schemas import OrderBody, OrderQuery, OrderView
from apps.orders.updates import OrderUpdates
from apps.orders.use_cases import CancelOrder, PlaceOrder
from chassis.database.pool import Database
from chassis.web.auth import CurrentUser, Verifier, authenticate
from chassis.web.commands import Commands, Committers, IdempotencyKey, UserCommands, located
from chassis.web.dependencies import Provided, ReadDatabase, provided
from chassis.web.operators import ActingOperator
from chassis.web.pagination import Page, page_of
from chassis.web.problems import (
    Invalid,
    KeyReused,
    NotFound,
    Unauthorized,
    Unavailable,
    documented,
    render_cached,
)
from chassis.web.routing import DirectRoute, StrictRoute, read_request, validated_request

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
    },
    204: {"description": "The client has received the outcome, and need not come back."},
}

WAIT_LIMIT_SECONDS: Final = 30

_PREFERENCES = re.compile(r'(?:[^,"]|"[^"]*")+')
_VERSION = re.compile(r"[0-9]{1,9}", re.ASCII)
_WAIT = re.compile(r'\s*wait\s*=\s*("?)([0-9]{1,9})\1\s*(?:;.*)?', re.IGNORECASE)

OrderUpdatesDep = Annotated[OrderUpdates, Depends(provided(OrderUpdates))]
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
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="The `id` of the last event that was received; anything else is ignored.",
        examples=["1"],
    ),
]


class CreateOrderHeaders(BaseModel):
    """The headers that `create_order` reads."""

    key: IdempotencyKey = None
    prefer: Prefer = None


async def create_order(request: Request, provided: Provided) -> Response:
    """Place an order. The one route on the fast path: it reads and validates the request itself."""
    if (refusal := provided[Admission].refusal()) is not None:
        return render_cached(refusal, request.scope["path"])
    request = await read_request(request)
    user = await authenticate(request, provided[Verifier])
    headers, body = validated_request(request, CreateOrderHeaders, OrderBody)
    commands = Commands(request, provided[Committers], user, headers.key)
    response = await commands.execute(
        use_cases.place_orders,
        PlaceOrder(user.id, body.total_price, commands.cause),
        OrderView.model_validate,
        body=body,
        status=201,
        location=lambda order: f"/order/{order.id}",
    )
    wait = _wait(headers.prefer)
    if wait is None or response.status_code != 201:
        return response
    return await _settled(provided, response, wait)


def _documented(
    body: OrderBody, user: CurrentUser, key: IdempotencyKey = None, prefer: Prefer = None
) -> None:
    """Place an order. Without `Prefer: wait` the response comes at once, with status `pending`."""


router.routes.append(
    DirectRoute(
        "/order/create",
        _documented,
        handler=create_order,
        name="create_order",
        methods=["POST"],
        tags=["orders"],
        status_code=201,
        response_model=OrderView,
        responses=WRITING
        | documented(PaymentRefused)
        | located(201)
        | {
            202: located(202)[202]
            | {"model": OrderView, "description": "Accepted; the outcome is not known in time."}
        },
    )
)


def _wait(prefer: str | None) -> int | None:
    """The seconds of the first `wait=N` in a Prefer header; other preferences are ignored (RFC 7240)."""
    for preference in _PREFERENCES.findall(prefer or ""):
        if found := _WAIT.fullmatch(preference):
            return min(int(found[2]), WAIT_LIMIT_SECONDS)
    return None


async def _settled(provided: Provided, accepted: Response, wait: int) -> Response:
    """The response to a client that has waited for the outcome."""
    accepted.headers["Preference-Applied"] = f"wait={wait}"
    order_id = UUID(json.loads(bytes(accepted.body))["orderId"])
    try:
        order = await _outcome(provided[Database], provided[OrderUpdates], order_id, wait)
    except Exception as error:
        # The order is placed, even if its outcome cannot be read: an error would make the client place it again.
        log.warning("orders.outcome_not_read", error=repr(error))
        accepted.status_code = 202
        return accepted
    headers = {k: v for k, v in accepted.headers.items() if not k.startswith("content-")}
    if order.status == "rejected":
        raise PaymentRefused(headers=headers, orderId=str(order.id), reason=order.reason)
    body = OrderView.model_validate(order).model_dump_json()
    return Response(body, 202 if order.pending else 201, headers, "application/json")


async def _outcome(
    database: Database, updates: OrderUpdates, order_id: UUID, seconds: float
) -> Order:
    """The order once it is settled, or its state when the time is up."""
    async with updates.of(order_id) as changes:
        order = await _read(database, order_id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while order.pending and (change := await changes.get()):
                    order = change
    return order


@router.get("/{orderId}", responses=READING)
async def view_order(order_id: OrderId, user: CurrentUser, database: ReadDatabase) -> OrderView:
    """The current state of an order."""
    return OrderView.model_validate(await _visible(order_id, user, database))


@router.get("", responses=READING)
async def list_orders(
    query: Annotated[OrderQuery, Query()], user: CurrentUser, database: ReadDatabase
) -> Page[OrderView]:
    """Your orders, newest first; for an operator those of all users."""
    statement = select(Order).order_by(col(Order.id).desc()).limit(query.limit + 1)
    if not user.sees_all:
        statement = statement.where(Order.user_id == user.id)
    if query.status is not None:
        statement = statement.where(Order.status == query.status)
    if (before := query.before()) is not None:
        statement = statement.where(Order.id < before)
    async with database.reading() as session:
        rows = (await session.exec(statement)).all()
    return page_of(rows, query.limit, OrderView.model_validate)


@router.post(
    "/{orderId}/cancel",
    response_model=OrderView,
    responses=WRITING | documented(NotFound, OrderAlreadyRejected),
)
async def cancel_order(
    order_id: OrderId, user: CurrentUser, commands: UserCommands, by_operator: ActingOperator
) -> Response:
    """Cancel an order that is pending or paid; a payment is refunded. Repeating it gives the same response."""
    owner = None if user.role == "operator" else user.id
    command = CancelOrder(order_id, owner, commands.cause, by_operator)
    return await commands.execute(use_cases.cancel_orders, command, OrderView.model_validate)


async def _visible(order_id: OrderId, user: CurrentUser, database: ReadDatabase) -> Order:
    """The order of a path. Raises NotFound; as a dependency it does so before a stream begins."""
    order = await _read(database, order_id)
    if not user.may_see(order.user_id):
        raise NotFound("There is no such order.")
    return order


async def _unseen(
    order: Annotated[Order, Depends(_visible)], response: Response, last: LastEventId = None
) -> tuple[UUID, int] | None:
    """An order and the version of it that the client has; None if that is the last one, which 204 responds to.

    An EventSource reconnects whenever a stream has ended, until it gets 204 (HTML standard, 9.2.3).
    """
    version = int(last) if last and _VERSION.fullmatch(last) else 0
    if order.pending or order.version > version:
        return order.id, version
    response.status_code = 204
    return None


@router.get("/{orderId}/events", response_class=EventSourceResponse, responses=READING | STREAM)
async def follow_order(
    unseen: Annotated[tuple[UUID, int] | None, Depends(_unseen)],
    user: CurrentUser,
    database: ReadDatabase,
    updates: OrderUpdatesDep,
) -> AsyncIterator[ServerSentEvent]:
    """The current state of an order, then each change, as server-sent events; ends when it is no longer pending.

    It ends with the access token, too. With `Last-Event-ID` what was received before is left out.
    """
    if unseen is None:
        return
    order_id, seen = unseen
    end = asyncio.get_running_loop().time() + user.seconds_left()
    async with updates.of(order_id) as changes:
        order = await _read(database, order_id)
        if order.version > seen:
            yield _sent(order)
        while order.pending and (change := await _next(changes, end)):
            if change.version > order.version:
                order = change
                yield _sent(order)


async def _next(changes: asyncio.Queue[Order | None], end: float) -> Order | None:
    """The next change; None if there is none until `end`, by the loop's clock."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            return await changes.get()
    return None


def _sent(order: Order) -> ServerSentEvent:
    return ServerSentEvent(
        data=OrderView.model_validate(order), event=order.status, id=str(order.version)
    )


async def _read(database: Database, order_id: UUID) -> Order:
    async with database.reading() as session:
        order: Order | None = await session.get(Order, order_id)
    if order is None:
        raise NotFound("There is no such order.")
    return order
