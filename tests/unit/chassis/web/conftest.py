"""A small service with strict routes, and checks of its responses."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from chassis.runtime.service import create_app
from chassis.web.context import REQUESTS
from chassis.web.pagination import PageQuery
from chassis.web.routing import StrictRoute
from chassis.web.schemas import Body
from events.money import Amount

router = APIRouter(prefix="/thing", tags=["things"], route_class=StrictRoute)


faults: list[Exception] = []


class ThingBody(Body):
    amount: Amount
    name: str = "thing"


class ThingQuery(PageQuery):
    kind_of: str | None = None


@router.post("/make", status_code=201)
async def make(body: ThingBody) -> dict[str, Any]:
    return {"amount": body.amount, "name": body.name}


@router.post("/{thingId}/touch")
async def touch() -> dict[str, bool]:
    return {"touched": True}


@router.get("")
async def things(query: Annotated[ThingQuery, Query()]) -> dict[str, Any]:
    return query.model_dump(by_alias=True)


@router.get("/{thing_id}")
async def thing(thing_id: UUID) -> dict[str, str]:
    return {"thingId": str(thing_id)}


@router.patch("/{thing_id}")
async def change(thing_id: UUID, body: ThingBody) -> dict[str, str]:
    return {"thingId": str(thing_id), "name": body.name}


@router.get("/{thing_id}/events", response_class=EventSourceResponse)
async def events(thing_id: UUID) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(data=str(thing_id))


@router.put("/fault")
async def fail() -> None:
    raise faults.pop()


@pytest.fixture
def quiet() -> Iterator[None]:
    """The default logger prints every local variable of every frame, which takes seconds."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app("things", description="Things.", router=router, subscriptions=())


@pytest.fixture
async def http(app: FastAPI, quiet: None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://things") as client:
        yield client


JSON = {"Content-Type": "application/json"}


def is_problem(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.headers["x-correlation-id"]) == 36
    document: dict[str, Any] = answer.json()
    assert set(document) >= {"type", "title", "status", "detail", "instance", "reason"}
    assert document["status"] == status
    assert document["reason"] == reason
    assert document["type"] == f"urn:chorus:problem:{reason}"
    return document


def counted(status: str) -> float:
    value: float = REQUESTS.labels("PUT", "/thing/fault", status)._value.get()
    return value
