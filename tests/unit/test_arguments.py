"""A route whose arguments are worked out along a list answers every request as FastAPI itself would."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from unittest.mock import patch
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.routing import APIRoute

from chassis.messaging.consumer import Inbox
from chassis.runtime.service import create_app
from chassis.web.arguments import Arguments
from chassis.web.problems import Unauthorized
from chassis.web.routing import StrictRoute
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


async def owner(thing_id: Annotated[UUID, Path(alias="thingId")], caller: Caller) -> str:
    return f"{caller} of {thing_id}"


async def keyed(caller: Caller, key: Key = None) -> str:
    return f"{caller} with {key}"


async def make(
    body: ThingBody,
    owner: Annotated[str, Depends(owner)],
    keyed: Annotated[str, Depends(keyed)],
    request: Request,
    times: Annotated[int, Header(alias="X-Times", ge=1)],
    prefer: Annotated[str, Header(alias="Prefer", max_length=9)] = "nothing",
) -> Response:
    seen = [body.model_dump(), owner, keyed, request.url.path, times, prefer]
    return Response(repr(seen), 201, headers={"Location": "/thing/1"})


def things() -> FastAPI:
    router = APIRouter(prefix="/thing", tags=["things"], route_class=StrictRoute)
    router.post("/{thingId}/make", status_code=201)(make)
    return create_app("things", description="Things.", router=router, inbox=Inbox("things"))


@pytest.fixture(scope="module")
def along_a_list() -> FastAPI:
    return things()


@pytest.fixture(scope="module")
def by_fastapi() -> FastAPI:
    with patch.object(Arguments, "of", return_value=None):
        return things()


PATH = "/thing/00000000-0000-7000-8000-000000000001/make"
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
    "a wrong part of the path": but(path="/thing/one/make"),
    "a caller who says nothing": but(headers={"Authorization": None}),
    "everything wrong": but(
        path="/thing/one/make",
        content=b'{"amount": "x"}',
        headers={"X-Key": "abcdef", "Prefer": "0123456789", "X-Times": "0"},
    ),
    "another type of body": but(headers={"Content-Type": "text/plain"}),
    "no JSON": but(content=b"{"),
    "a query": but(path=f"{PATH}?a=b"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_answer_is_fastapis(
    name: str, along_a_list: FastAPI, by_fastapi: FastAPI
) -> None:
    request = {"path": PATH, **REQUESTS[name]}
    ours, theirs = await _ask(along_a_list, **request), await _ask(by_fastapi, **request)
    assert ours == theirs
    assert ours[0] < 500


async def _ask(app: FastAPI, path: str, **request: Any) -> tuple[int, str, dict[str, str]]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://things") as http:
        answer = await http.post(path, **request)
    headers = dict(answer.headers)
    assert len(headers.pop("x-correlation-id")) == 36
    return answer.status_code, answer.text, headers


def _route(endpoint: Any) -> APIRoute:
    return APIRoute("/", endpoint)


def test_the_route_under_test_is_one_of_them(along_a_list: FastAPI) -> None:
    [route] = [r for r in along_a_list.routes if isinstance(r, APIRoute) and r.endpoint is make]
    assert Arguments.of(route) is not None


async def _answers_with_a_value() -> dict[str, str]:
    return {}


async def _reads_a_query(limit: Annotated[int, Query()] = 1) -> Response:
    return Response()


async def _reads_two_bodies(first: ThingBody, second: ThingBody) -> Response:
    return Response()


async def _session() -> AsyncIterator[int]:
    yield 1


async def _closes_something(session: Annotated[int, Depends(_session)]) -> Response:
    return Response()


async def _asks_anew(caller: Annotated[str, Depends(Bearer(), use_cache=False)]) -> Response:
    return Response()


async def _sets_headers(response: Response) -> Response:
    return Response()


def _blocks() -> Response:
    return Response()


@pytest.mark.parametrize(
    "endpoint",
    [
        _answers_with_a_value,
        _reads_a_query,
        _reads_two_bodies,
        _closes_something,
        _asks_anew,
        _sets_headers,
        _blocks,
    ],
)
def test_what_needs_more_stays_with_fastapi(endpoint: Any) -> None:
    assert Arguments.of(_route(endpoint)) is None


async def test_a_route_does_not_run_when_its_guard_could_not_be_asked() -> None:
    ran = []

    async def guard(level: Annotated[int, Header(alias="X-Level")]) -> None:
        """Lets everybody in who says a number."""

    async def guarded() -> Response:
        ran.append(True)
        return Response()

    router = APIRouter(prefix="/thing", tags=["things"], route_class=StrictRoute)
    router.post("", dependencies=[Depends(guard)])(guarded)
    app = create_app("things", description="Things.", router=router, inbox=Inbox("things"))
    refused, _, _ = await _ask(app, "/thing", headers={"X-Level": "none"})
    assert (refused, ran) == (422, [])
    let_in, _, _ = await _ask(app, "/thing", headers={"X-Level": "1"})
    assert (let_in, ran) == (200, [True])
