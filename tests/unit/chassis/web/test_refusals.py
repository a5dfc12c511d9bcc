"""A direct route may refuse a request before reading it, with a problem like any other."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from chassis.runtime.service import create_app
from chassis.web.dependencies import Provided
from chassis.web.problems import Unavailable, render_cached
from chassis.web.routing import DirectRoute, StrictRoute, read_request, validated_request
from chassis.web.schemas import Body

FULL = Unavailable("It is full.")
refusals: list[Unavailable] = []
router = APIRouter(prefix="/seat", tags=["seats"], route_class=StrictRoute)


class SeatBody(Body):
    row: int


class NoHeaders(BaseModel):
    pass


async def take(request: Request, provided: Provided) -> Response:
    if refusals:
        return render_cached(refusals.pop(), request.scope["path"])
    _, body = validated_request(await read_request(request), NoHeaders, SeatBody)
    return Response(str(body.row), 201)


router.routes.append(DirectRoute("/seat/take", lambda: None, handler=take, methods=["POST"]))


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    refusals.clear()
    app = create_app("seats", description="Seats.", router=router, subscriptions=())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://seats") as client:
        yield client


async def test_an_admitted_request_is_handled(http: httpx.AsyncClient) -> None:
    answer = await http.post("/seat/take", json={"row": 7})
    assert (answer.status_code, answer.text) == (201, "7")


@pytest.mark.parametrize("body", ["no JSON", '{"row": 7}', '{"row": "none"}', "x" * 100_000])
async def test_a_refusal_comes_before_any_validation(http: httpx.AsyncClient, body: str) -> None:
    refusals.append(FULL)
    headers = {"X-Correlation-Id": "a-flow"}
    answer = await http.post("/seat/take?what=this", content=body, headers=headers)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-Correlation-Id"] == "a-flow"
    assert answer.json() == FULL.document("/seat/take")


async def test_each_refusal_has_the_correlation_id_of_its_request(http: httpx.AsyncClient) -> None:
    """Although the body is rendered only once."""
    for flow in ("one", "other"):
        refusals.append(FULL)
        answer = await http.post("/seat/take", headers={"X-Correlation-Id": flow})
        assert answer.headers.get_list("X-Correlation-Id") == [flow]


async def test_a_refusal_is_counted_at_its_route(http: httpx.AsyncClient) -> None:
    refusals.append(FULL)
    await http.post("/seat/take", json={"row": 7})
    metrics = await http.get("/metrics")
    assert 'method="POST",route="/seat/take",status="503"' in metrics.text
