"""A direct route answers every request as FastAPI itself would, and is documented alike."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel

from chassis.runtime.service import create_app
from chassis.web.problems import Unauthorized
from chassis.web.routing import (
    DirectRoute,
    StrictRoute,
    check_query,
    read_body,
    validated_request,
)
from chassis.web.schemas import Body
from events.money import Amount


class ThingBody(Body):
    amount: Amount
    name: str = "thing"


class Bearer:
    async def __call__(self, request: Request) -> str:
        if "authorization" not in request.headers:
            raise Unauthorized("Who are you?")
        return request.headers["authorization"]


Caller = Annotated[str, Depends(Bearer())]
Key = Annotated[str | None, Header(alias="X-Key", min_length=2, max_length=5)]


async def make(
    body: ThingBody,
    caller: Caller,
    request: Request,
    times: Annotated[int, Header(alias="X-Times", ge=1)],
    key: Key = None,
    prefer: Annotated[str, Header(alias="Prefer", max_length=9)] = "nothing",
) -> Response:
    seen = [body.model_dump(), caller, key, request.url.path, times, prefer]
    return Response(repr(seen), 201, headers={"Location": "/thing/1"})


class ThingHeaders(BaseModel):
    times: Annotated[int, Header(alias="X-Times", ge=1)]
    key: Key = None
    prefer: Annotated[str, Header(alias="Prefer", max_length=9)] = "nothing"


async def make_directly(request: Request) -> Response:
    check_query(request)
    request = await read_body(request)
    caller = await Bearer()(request)
    headers, body = validated_request(request, ThingHeaders, ThingBody)
    return await make(body, caller, request, headers.times, headers.key, headers.prefer)


def things(*, directly: bool) -> FastAPI:
    router = APIRouter(prefix="/thing", tags=["things"], route_class=StrictRoute)
    if directly:
        router.routes.append(
            DirectRoute(
                "/thing/make",
                make,
                handler=make_directly,
                methods=["POST"],
                status_code=201,
                response_model=ThingBody,
                tags=["things"],
            )
        )
    else:
        router.post("/make", status_code=201, response_model=ThingBody)(make)
    return create_app("things", description="Things.", router=router, subscriptions=())


@pytest.fixture(scope="module")
def direct() -> FastAPI:
    return things(directly=True)


@pytest.fixture(scope="module")
def by_fastapi() -> FastAPI:
    return things(directly=False)


PATH = "/thing/make"
JSON = {"Content-Type": "application/json"}
CALLER = {"Authorization": "Ada", "X-Times": "3"}
GOOD: dict[str, Any] = {"content": b'{"amount": "1.50"}', "headers": JSON | CALLER}


def but(**other: Any) -> dict[str, Any]:
    """A good request, except for this."""
    headers = GOOD["headers"] | other.pop("headers", {})
    return GOOD | {"headers": {name: value for name, value in headers.items() if value}} | other


REQUESTS: dict[str, dict[str, Any]] = {
    "a good one": GOOD,
    "all headers": but(headers={"X-Key": "abc", "Prefer": "wait=1"}),
    "a header that stands twice": GOOD
    | {"headers": [*GOOD["headers"].items(), ("Prefer", "first"), ("prefer", "second")]},
    "an empty header": GOOD | {"headers": [*GOOD["headers"].items(), ("X-Key", "")]},
    "letters that are not ASCII": but(headers={"Prefer": "wärts".encode("latin-1")}),
    "no body": but(content=b""),
    "a body that is null": but(content=b"null"),
    "a body that is a list": but(content=b"[]"),
    "a body that is a text": but(content=b'"amount"'),
    "a field missing": but(content=b"{}"),
    "a field too many": but(content=b'{"amount": 1, "more": true}'),
    "a wrong field": but(content=b'{"amount": -1, "name": 7}'),
    "a wrong header": but(headers={"X-Key": "a"}),
    "a header missing": but(headers={"X-Times": None}),
    "a caller who says nothing": but(headers={"Authorization": None}),
    "everything wrong": but(
        content=b'{"amount": "x"}',
        headers={"X-Key": "abcdef", "Prefer": "0123456789", "X-Times": "0"},
    ),
    "another type of body": but(headers={"Content-Type": "text/plain"}),
    "no JSON": but(content=b"{"),
    "a query": but(path=f"{PATH}?a=b"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_answer_is_fastapis(name: str, direct: FastAPI, by_fastapi: FastAPI) -> None:
    request = {"path": PATH, **REQUESTS[name]}
    ours, theirs = await _ask(direct, **request), await _ask(by_fastapi, **request)
    assert ours == theirs
    assert ours[0] < 500


async def _ask(app: FastAPI, path: str, **request: Any) -> tuple[int, str, dict[str, str]]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://things") as http:
        answer = await http.post(path, **request)
    headers = dict(answer.headers)
    assert len(headers.pop("x-correlation-id")) == 36
    return answer.status_code, answer.text, headers


def test_both_are_documented_alike(direct: FastAPI, by_fastapi: FastAPI) -> None:
    assert direct.openapi() == by_fastapi.openapi()


async def test_a_route_does_not_run_when_its_guard_could_not_be_asked() -> None:
    ran = []

    async def guard(level: Annotated[int, Header(alias="X-Level")]) -> None:
        """Lets everybody in who says a number."""

    async def guarded() -> Response:
        ran.append(True)
        return Response()

    router = APIRouter(prefix="/thing", tags=["things"], route_class=StrictRoute)
    router.post("", dependencies=[Depends(guard)])(guarded)
    app = create_app("things", description="Things.", router=router, subscriptions=())
    refused, _, _ = await _ask(app, "/thing", headers={"X-Level": "none"})
    assert (refused, ran) == (422, [])
    let_in, _, _ = await _ask(app, "/thing", headers={"X-Level": "1"})
    assert (let_in, ran) == (200, [True])
