"""A direct route responds to every request as FastAPI does, and has the same documentation."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel

from chassis.runtime.service import create_app
from chassis.web.dependencies import Provided
from chassis.web.problems import Unauthorized
from chassis.web.routing import DirectRoute, StrictRoute, read_request, validated_request
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


async def make_directly(request: Request, provided: Provided) -> Response:
    request = await read_request(request)
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
VALID: dict[str, Any] = {"content": b'{"amount": "1.50"}', "headers": JSON | CALLER}


def changed(**other: Any) -> dict[str, Any]:
    """A valid request with changes."""
    headers = VALID["headers"] | other.pop("headers", {})
    return VALID | {"headers": {name: value for name, value in headers.items() if value}} | other


REQUESTS: dict[str, dict[str, Any]] = {
    "a valid one": VALID,
    "all headers": changed(headers={"X-Key": "abc", "Prefer": "wait=1"}),
    "a repeated header": VALID
    | {"headers": [*VALID["headers"].items(), ("Prefer", "first"), ("prefer", "second")]},
    "an empty header": VALID | {"headers": [*VALID["headers"].items(), ("X-Key", "")]},
    "letters that are not ASCII": changed(headers={"Prefer": "wärts".encode("latin-1")}),
    "no body": changed(content=b""),
    "a body that is null": changed(content=b"null"),
    "a body that is a list": changed(content=b"[]"),
    "a body that is a text": changed(content=b'"amount"'),
    "a field missing": changed(content=b"{}"),
    "a field too many": changed(content=b'{"amount": 1, "more": true}'),
    "a wrong field": changed(content=b'{"amount": -1, "name": 7}'),
    "a wrong header": changed(headers={"X-Key": "a"}),
    "a header missing": changed(headers={"X-Times": None}),
    "no credentials": changed(headers={"Authorization": None}),
    "everything wrong": changed(
        content=b'{"amount": "x"}',
        headers={"X-Key": "abcdef", "Prefer": "0123456789", "X-Times": "0"},
    ),
    "another type of body": changed(headers={"Content-Type": "text/plain"}),
    "no JSON": changed(content=b"{"),
    "a query": changed(path=f"{PATH}?a=b"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_direct_route_responds_as_fastapi_does(
    name: str, direct: FastAPI, by_fastapi: FastAPI
) -> None:
    request = {"path": PATH, **REQUESTS[name]}
    ours, theirs = await _post(direct, **request), await _post(by_fastapi, **request)
    assert ours == theirs
    assert ours[0] < 500


async def _post(app: FastAPI, path: str, **request: Any) -> tuple[int, str, dict[str, str]]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://things") as http:
        answer = await http.post(path, **request)
    headers = dict(answer.headers)
    assert len(headers.pop("x-correlation-id")) == 36
    return answer.status_code, answer.text, headers


def test_a_direct_route_is_documented_as_by_fastapi(direct: FastAPI, by_fastapi: FastAPI) -> None:
    assert direct.openapi() == by_fastapi.openapi()


async def test_a_route_does_not_run_if_its_dependency_is_not_satisfied() -> None:
    ran = []

    async def check(level: Annotated[int, Header(alias="X-Level")]) -> None:
        """Admits every request with a number."""

    async def handler() -> Response:
        ran.append(True)
        return Response()

    router = APIRouter(prefix="/thing", tags=["things"], route_class=StrictRoute)
    router.post("", dependencies=[Depends(check)])(handler)
    app = create_app("things", description="Things.", router=router, subscriptions=())
    refused, _, _ = await _post(app, "/thing", headers={"X-Level": "none"})
    assert (refused, ran) == (422, [])
    accepted, _, _ = await _post(app, "/thing", headers={"X-Level": "1"})
    assert (accepted, ran) == (200, [True])
