"""Orders, for services that call each other: stores an order, has billing charge it, stores the outcome.

The response to `POST /order/create` has the outcome already: 201 with the order, paid or rejected.

**If billing does not respond** within five seconds, the order may have been debited or not. It stays pending, and the
response is 503 with the order's id. A sweeper calls billing again, every few seconds and after every start, until each
order is decided; billing decides an order once, so this is harmless. A retry with the same Idempotency-Key continues
the same order; one without creates a second order.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response
from uuid_utils.compat import uuid7

from apps.orders.api import list_orders, view_order
from apps.orders.models import Order, Outcome
from apps.orders.schemas import OrderBody, OrderView
from bench.baselines.common import Service, cause_of, service_of
from bench.baselines.parts import sql
from bench.baselines.parts.idempotency import (
    Connection,
    Key,
    OptionalKey,
    StoredKey,
    StoredResponse,
    claim,
    rendering,
    store,
)
from bench.baselines.parts.messages import Decision
from bench.baselines.parts.services import ServiceUnavailableError, services
from chassis.database.errors import is_transient
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool
from chassis.web.auth import CurrentUser
from chassis.web.commands import REPLAYED
from chassis.web.problems import RETRY_AFTER_SECONDS, NotFound, Problem
from chassis.web.routing import StrictRoute
from events.base import Causation, least_id

log = structlog.get_logger(__name__)

SETTLE: Final = """
UPDATE orders SET status = $2, reason = $3, settled_at = $4, version = $5 WHERE id = $1 AND status = 'pending'
RETURNING true
"""
PENDING: Final = statements(Order).where(
    "id >= $1 AND id < $2 AND status = 'pending' ORDER BY id LIMIT $3"
)

SWEEP_SECONDS: Final = 3.0
SWEEP_LIMIT: Final = 100

GRACE_SECONDS: Final = 8.0
"""The age of an order at which the sweeper has it decided. A slower request may do the same: it is decided once."""


class Undecided(Problem):
    """The order is placed, and billing has not decided it yet."""

    status = 503
    reason = "undecided"


class Checkout:
    """Places and settles orders. Subclasses add what happens before and after an outcome is stored."""

    async def on_decision(self, order: Order, decision: Decision, cause: Causation) -> None:
        """Called after billing has decided, while the order is pending. Must not raise if a service is unavailable."""

    async def on_settled(self, order: Order, cause: Causation) -> None:
        """Called after the outcome is stored. Must not raise if a server is unavailable."""

    def router(self) -> APIRouter:
        """The public routes of orders."""
        router = APIRouter(prefix="/order", route_class=StrictRoute)

        @router.post("/create", status_code=201)
        async def create_order(
            body: OrderBody, user: CurrentUser, request: Request, key: OptionalKey
        ) -> Response:
            """Place an order and have it charged."""
            order = Order.place(uuid7(), user.id, body.total_price, datetime.now(UTC))
            placed = await self._placed(service_of(request), order, cause_of(request), key)
            return placed.response()

        router.add_api_route("/{orderId}", view_order, methods=["GET"])
        router.add_api_route("", list_orders, methods=["GET"])
        return router

    def internal(self) -> APIRouter:
        """The routes for other services."""
        router = APIRouter(prefix="/internal")

        @router.get("/order/{order_id}")
        async def view_order_state(order_id: UUID, request: Request) -> Response:
            """An order as it is now."""
            order = await _read(service_of(request).database.pool, order_id)
            return Response(order.state().model_dump_json(), media_type="application/json")

        return router

    async def _placed(
        self, service: Service, order: Order, cause: Causation, key: Key | None
    ) -> StoredResponse:
        pool = service.database.pool
        if key is None:
            await pool.execute(sql.insert(Order), *sql.values(order))
            return _answer(await self._decided(service, order, cause))
        async with pool.acquire() as connection, connection.transaction():
            stored = await claim(connection, key, f"/order/{order.id}")
            if stored is None:
                await connection.execute(sql.insert(Order), *sql.values(order))
        if stored is None:
            return _answer(await self._decided(service, order, cause, key))
        return stored.answer() or await self._resumed(service, stored, cause, key)

    async def _resumed(
        self, service: Service, stored: StoredKey, cause: Causation, key: Key
    ) -> StoredResponse:
        """Continue an order that another request with this key has placed, and that has no response yet."""
        assert stored.location is not None
        order = await _read(service.database.pool, UUID(stored.location.rpartition("/")[2]))
        if order.pending:
            order = await self._decided(service, order, cause, key)
        answer = _answer(order)
        return StoredResponse(answer.status, answer.body, headers={**answer.headers, **REPLAYED})

    async def _decided(
        self, service: Service, order: Order, cause: Causation, key: Key | None = None
    ) -> Order:
        """The order with its outcome. Raises Undecided if billing does not respond."""
        try:
            body = order.state().model_dump_json()
            answer = await services.post("billing", "/internal/charge", body, cause)
        except ServiceUnavailableError as error:
            log.warning("orders.undecided", order_id=str(order.id), error=str(error))
            raise Undecided(
                "It will be decided as soon as billing responds.",
                headers={"Retry-After": RETRY_AFTER_SECONDS},
                orderId=str(order.id),
            ) from None
        decision = Decision.model_validate_json(answer)
        await self.on_decision(order, decision, cause)
        now = datetime.now(UTC)
        order.settle(Outcome(decision.status, now, decision.reason), now)
        pool = service.database.pool
        if not await _settled(pool, order, key):
            return await _read(pool, order.id)
        await self.on_settled(order, cause)
        return order

    @contextlib.asynccontextmanager
    async def sweeping(self, service: Service) -> AsyncIterator[None]:
        """A part of orders: it has orders decided that were left pending."""
        service.supervisor.start("sweeper", self._sweep(service))
        yield

    async def _sweep(self, service: Service) -> None:
        # Ids are ordered by time: each order is read once, when it is old enough, and then only while it is pending.
        low = UUID(int=0)
        while True:
            high = least_id(datetime.now(UTC) - timedelta(seconds=GRACE_SECONDS))
            try:
                low = await self._sweep_between(service, low, high)
            except Exception as error:
                if not isinstance(error, Undecided) and not is_transient(error):
                    raise
            await asyncio.sleep(SWEEP_SECONDS)

    async def _sweep_between(self, service: Service, low: UUID, high: UUID) -> UUID:
        pool = service.database.pool
        while records := await pool.fetch(PENDING, low, high, SWEEP_LIMIT):
            for record in records:
                order = from_record(Order, record)
                log.warning("orders.left_pending", order_id=str(order.id))
                await self._decided(service, order, Causation(str(uuid7())))
        return high


async def _read(pool: Pool, order_id: UUID) -> Order:
    record = await pool.fetchrow(sql.select(Order, "id"), order_id)
    if record is None:
        raise NotFound("There is no such order.")
    return from_record(Order, record)


async def _settled(pool: Pool, order: Order, key: Key | None) -> bool:
    """Store an outcome, and the response for a key. Returns whether the order was still pending."""
    if key is None:
        return await _settle(pool, order)
    async with pool.acquire() as connection, connection.transaction():
        changed = await _settle(connection, order)
        if changed:
            await store(connection, key, _answer(order))
    return changed


async def _settle(database: "Pool | Connection", order: Order) -> bool:
    changes: list[Any] = [order.status, order.reason, order.settled_at, order.version]
    return bool(await database.fetchval(SETTLE, order.id, *changes))


def _answer(order: Order) -> StoredResponse:
    location = f"/order/{order.id}"
    return rendering(OrderView.model_validate, 201, lambda _: location)(location, order)
