"""The checks and error responses of strict routes, on a small service of the test's own."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import structlog
from fastapi import APIRouter, FastAPI, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from chassis.database.errors import CommitUnknownError
from chassis.database.group_commit import OverloadedError, UnavailableError
from chassis.runtime.service import create_app
from chassis.web.context import REQUESTS
from chassis.web.pagination import PageQuery
from chassis.web.problems import Invalid
from chassis.web.routing import BODY_LIMIT, StrictRoute, strict_json
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


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The default logger prints every local variable of every frame, which takes seconds."""
    with structlog.testing.capture_logs():
        yield


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app("things", description="Things.", router=router, subscriptions=())


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
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


MALFORMED = {
    "empty": b"",
    "half": b'{"amount": 1',
    "rest": b'{"amount": 1} x',
    "trailing comma": b'{"amount": 1,}',
    "single quotes": b"{'amount': 1}",
    "comment": b'{"amount": 1} // one',
    "not a number": b'{"amount": NaN}',
    "infinity": b'{"amount": Infinity}',
    "minus infinity": b'{"amount": -Infinity}',
    "beyond any float": b'{"amount": 1e999}',
    "tiny": b'{"amount": 1e-999}',
    "many digits": b'{"amount": ' + b"9" * 5000 + b"}",
    "huge": b'{"amount": 10000000000000}',
    "three decimals": b'{"amount": 1.005}',
    "zero": b'{"amount": 0}',
    "minus zero": b'{"amount": -0.0}',
    "negative": b'{"amount": -1}',
    "boolean": b'{"amount": true}',
    "null": b'{"amount": null}',
    "list": b'{"amount": [1]}',
    "exponent in text": b'{"amount": "1e2"}',
    "other digits": '{"amount": "\u0661"}'.encode(),
    "underscore": b'{"amount": "1_0"}',
    "spaces": b'{"amount": " 1"}',
    "unknown field": b'{"amount": 1, "role": "operator"}',
    "field by its other name": b'{"amount": 1, "name": "x", "Name": "y"}',
    "missing field": b'{"name": "x"}',
    "number for text": b'{"amount": 1, "name": 1}',
    "no object": b"[]",
    "text": b'"amount"',
    "nothing": b"null",
    "the same field twice": b'{"amount": 1, "amount": 2}',
    "the same field twice, inside": b'{"amount": 1, "name": {"a": 1, "a": 1}}',
    "NUL": b'{"amount": 1, "name": "a\\u0000b"}',
    "raw NUL": b'{"amount": 1, "name": "a\x00b"}',
    "NUL in a name": b'{"amount": 1, "a\\u0000b": 1}',
    "high surrogate alone": b'{"amount": 1, "name": "\\ud800"}',
    "low surrogate alone": b'{"amount": 1, "name": "\\uDC00 x"}',
    "no UTF-8": b'{"amount": 1, "name": "\xff"}',
    "overlong UTF-8": b'{"amount": 1, "name": "\xc0\x80"}',
    "UTF-16": '{"amount": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"amount": 1}',
    "nested deeply": b"[" * 30_000 + b"]" * 30_000,
    "nested deeply in a field": b'{"amount":' * 5_000 + b"1" + b"}" * 5_000,
}


def counted(status: str) -> float:
    value: float = REQUESTS.labels("PUT", "/thing/fault", status)._value.get()
    return value


class TestBody:
    @pytest.mark.parametrize(
        "body", ['{"amount": 1}', ' {"name":"x","amount":"1.00"} ', '{"amount":1e2}']
    )
    async def test_a_valid_body_is_accepted(self, http: httpx.AsyncClient, body: str) -> None:
        answer = await http.post("/thing/make", content=body, headers=JSON)
        assert answer.status_code == 201, answer.text

    @pytest.mark.parametrize("name", MALFORMED)
    async def test_a_malformed_body_is_refused(self, http: httpx.AsyncClient, name: str) -> None:
        document = is_problem(
            await http.post("/thing/make", content=MALFORMED[name], headers=JSON),
            422,
            "invalid_request",
        )
        assert document["errors"]
        assert document["detail"]

    async def test_text_that_looks_like_an_escape_is_accepted(
        self, http: httpx.AsyncClient
    ) -> None:
        names = ["\\u0000", "\\ud800", "\u00fc", "\U0001f600", "\u2028"]
        for name in names:
            answer = await http.post("/thing/make", json={"amount": 1, "name": name})
            assert answer.status_code == 201, answer.text
            assert answer.json()["name"] == name

    @pytest.mark.parametrize(
        "content_type",
        [
            None,
            "",
            "text/plain",
            "text/json",
            "application/xml",
            "application/jsonx",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/json; charset=utf-16",
            "application/json; charset=latin-1",
            "\u00e4pplication/json".encode("latin-1"),
        ],
    )
    async def test_a_body_of_another_media_type_is_refused(
        self, http: httpx.AsyncClient, content_type: str | bytes | None
    ) -> None:
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = await http.post("/thing/make", content=b'{"amount": 1}', headers=headers)  # type: ignore[arg-type]
        is_problem(answer, 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        "content_type",
        [
            "application/json",
            "APPLICATION/JSON",
            "application/json; charset=utf-8",
            'application/json;charset="UTF-8"',
        ],
    )
    async def test_the_json_media_type_is_accepted_in_all_spellings(
        self, http: httpx.AsyncClient, content_type: str
    ) -> None:
        answer = await http.post(
            "/thing/make", content=b'{"amount": 1}', headers={"Content-Type": content_type}
        )
        assert answer.status_code == 201, answer.text

    async def test_a_body_that_is_too_large_is_refused(self, http: httpx.AsyncClient) -> None:
        body = json.dumps({"amount": 1, "name": "x" * BODY_LIMIT}).encode()
        is_problem(
            await http.post("/thing/make", content=body, headers=JSON), 413, "content_too_large"
        )
        for path in (f"/thing/{UUID(int=1)}/touch", "/live"):
            method = "GET" if path == "/live" else "POST"
            is_problem(await http.request(method, path, content=body), 413, "content_too_large")

    async def test_a_streamed_body_is_read_only_up_to_the_limit(
        self, http: httpx.AsyncClient
    ) -> None:
        given_out = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal given_out
            while True:
                given_out += 1
                yield b"x" * 1024

        is_problem(
            await http.post("/thing/make", content=endless(), headers=JSON),
            413,
            "content_too_large",
        )
        assert given_out <= 66

    async def test_a_body_of_exactly_the_limit_is_accepted(self, http: httpx.AsyncClient) -> None:
        frame = len(json.dumps({"amount": 1, "name": ""}).encode())
        body = json.dumps({"amount": 1, "name": "x" * (BODY_LIMIT - frame)}).encode()
        assert len(body) == BODY_LIMIT
        assert (await http.post("/thing/make", content=body, headers=JSON)).status_code == 201

    async def test_a_route_without_a_body_refuses_one(self, http: httpx.AsyncClient) -> None:
        path = f"/thing/{UUID(int=1)}/touch"
        for content in (b"", b"{}", b" {} "):
            assert (await http.post(path, content=content, headers=JSON)).status_code == 200
        is_problem(await http.post(path, json={"status": "paid"}), 422, "invalid_request")
        is_problem(await http.post(path, content=b"x", headers=JSON), 422, "invalid_request")
        is_problem(await http.post(path, content=b"x"), 415, "unsupported_media_type")
        is_problem(await http.request("GET", "/live", json=[1]), 422, "invalid_request")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])),
            lambda inner: st.lists(inner) | st.dictionaries(
                st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), inner
            ),
        )
    )  # fmt: skip
    def test_valid_json_is_read_unchanged(self, document: Any) -> None:
        written = json.dumps(document)
        as_written = json.loads(written, parse_float=Decimal)
        assert strict_json(written.encode()) == as_written
        assert strict_json(json.dumps(document, ensure_ascii=False).encode()) == as_written

    @given(st.binary())
    def test_any_bytes_are_valid_json_or_refused(self, body: bytes) -> None:
        with contextlib.suppress(Invalid):
            json.dumps(strict_json(body), default=str).encode()


class TestQueryPathAndMethod:
    async def test_a_query_is_read(self, http: httpx.AsyncClient) -> None:
        answer = await http.get("/thing?limit=3&kindOf=%C3%BC")
        assert answer.json() == {"cursor": None, "limit": 3, "kindOf": "\u00fc"}

    @pytest.mark.parametrize(
        "query",
        [
            "nope=1",
            "kind_of=x",
            "limit=3&limit=3",
            "limit=0",
            "limit=201",
            "limit=",
            "limit=1.5",
            "limit=true",
            "limit=1e1",
            "limit=" + "9" * 5000,
            "kindOf=%00",
            "%00=1",
            "cursor=" + "x" * 65,
            "=",
            "LIMIT=3",
            "limit[]=3",
        ],
    )
    async def test_an_invalid_query_is_refused(self, http: httpx.AsyncClient, query: str) -> None:
        is_problem(await http.get(f"/thing?{query}"), 422, "invalid_request")

    @pytest.mark.parametrize(
        "path",
        ["/live", "/ready", "/metrics", "/docs", "/openapi.json", "/asyncapi", "/asyncapi.json"],
    )
    async def test_a_route_without_a_query_refuses_one(
        self, http: httpx.AsyncClient, path: str
    ) -> None:
        is_problem(await http.get(f"{path}?x=1"), 422, "invalid_request")
        is_problem(await http.get(f"{path}?x"), 422, "invalid_request")

    @pytest.mark.parametrize(
        "id", ["1", "x" * 36, "%00", "%ff", "..", "00000000-0000-0000-0000-00000000000g"]
    )
    async def test_a_malformed_id_is_refused(self, http: httpx.AsyncClient, id: str) -> None:
        if id != "..":
            is_problem(await http.get(f"/thing/{id}"), 422, "invalid_request")

    @pytest.mark.parametrize(
        "path", ["/", "/nope", "/thing/", "/thing/a/b/c", "//", "/%00", "/live/"]
    )
    async def test_an_unknown_path_is_not_found(self, http: httpx.AsyncClient, path: str) -> None:
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            is_problem(await http.request(method, f"http://things{path}"), 404, "not_found")

    async def test_an_unsupported_method_is_refused_with_the_allowed_ones(
        self,
        http: httpx.AsyncClient,
    ) -> None:
        methods = {
            "/thing/make": {"POST"},  # and not those of a thing with the id "make"
            f"/thing/{UUID(int=1)}": {"GET", "HEAD", "PATCH"},
            f"/thing/{UUID(int=1)}/touch": {"POST"},
            f"/thing/{UUID(int=1)}/events": {"GET"},
            "/live": {"GET", "HEAD"},
            "/openapi.json": {"GET", "HEAD"},
        }
        for path, allowed in methods.items():
            for method in ("DELETE", "OPTIONS", "TRACE", "QUERY"):
                answer = await http.request(method, path)
                is_problem(answer, 405, "method_not_allowed")
                assert set(answer.headers["allow"].split(", ")) == allowed, path

    async def test_head_is_handled_like_get(self, http: httpx.AsyncClient) -> None:
        assert (await http.head("/thing?limit=3")).status_code == 200
        assert (await http.head("/thing/x")).status_code == 422
        assert (await http.head("/nope")).status_code == 404
        assert (await http.head(f"/thing/{UUID(int=1)}/touch")).status_code == 405
        assert (await http.head(f"/thing/{UUID(int=1)}/events")).status_code == 405


class TestResponse:
    @pytest.mark.parametrize("id", ["flow-1", "a" * 128, "A.b_c:d/e-f"])
    async def test_a_correlation_id_is_kept(self, http: httpx.AsyncClient, id: str) -> None:
        answer = await http.get("/live", headers={"X-Correlation-Id": id})
        assert answer.headers["x-correlation-id"] == id

    @pytest.mark.parametrize("id", [b"", b"a" * 129, b"\xff", b"a b", b"-a", b"a;b", b"<x>", b'"'])
    async def test_a_malformed_correlation_id_is_replaced(
        self, http: httpx.AsyncClient, id: bytes
    ) -> None:
        answer = await http.get("/live", headers={b"X-Correlation-Id": id})
        assert answer.status_code == 200
        assert UUID(answer.headers["x-correlation-id"]).version == 7

    async def test_an_unhandled_error_is_a_problem_with_correlation_id_and_is_counted(
        self,
        http: httpx.AsyncClient,
    ) -> None:
        before = counted("500")
        faults.append(ZeroDivisionError("secret"))
        answer = await http.put("/thing/fault", headers={"X-Correlation-Id": "flow-1"})
        assert answer.headers["x-correlation-id"] == "flow-1"
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text
        assert "ZeroDivisionError" not in answer.text
        assert counted("500") == before + 1

    @pytest.mark.parametrize(
        "fault",
        [
            OverloadedError("work"),
            UnavailableError("work"),
            CommitUnknownError("lost"),
            ConnectionRefusedError(),
            TimeoutError(),
            asyncpg.CannotConnectNowError("starting up"),
            asyncpg.AdminShutdownError("bye"),
            asyncpg.TooManyConnectionsError("full"),
            PoolTimeoutError("QueuePool limit"),
        ],
    )
    async def test_an_unavailable_server_is_reported_as_503(
        self, http: httpx.AsyncClient, fault: Exception
    ) -> None:
        faults.append(fault)
        answer = await http.put("/thing/fault")
        is_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"

    async def test_an_unavailable_server_is_found_in_the_cause_of_a_sqlalchemy_error(
        self,
        http: httpx.AsyncClient,
    ) -> None:
        wrapped = OperationalError("SELECT 1", {}, Exception())
        wrapped.__cause__ = asyncpg.ConnectionDoesNotExistError("gone")
        faults.append(wrapped)
        is_problem(await http.put("/thing/fault"), 503, "unavailable")
        bad = DBAPIError("SELECT", {}, Exception())
        bad.__cause__ = asyncpg.UndefinedTableError("no such table")
        faults.append(bad)
        is_problem(await http.put("/thing/fault"), 500, "internal_error")

    async def test_the_instance_of_a_problem_is_a_uri_reference(
        self, http: httpx.AsyncClient
    ) -> None:
        document = is_problem(await http.get("/n\u00f6pe%20%22x%22"), 404, "not_found")
        assert document["instance"] == "/n%C3%B6pe%20%22x%22"

    def test_create_app_refuses_a_route_that_is_not_strict(self) -> None:
        lax = APIRouter(prefix="/lax", tags=["lax"])
        lax.add_api_route("/x", touch)
        with pytest.raises(TypeError, match="StrictRoute"):
            create_app("lax", description="", router=lax, subscriptions=())
