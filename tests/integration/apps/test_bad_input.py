"""Bad input to every operation: a problem document with the right 4xx, never a 500, and no write.

The operations come from the services' OpenAPI documents, so a new route is tested as well.
See tests/unit/chassis/web/test_routing.py for what every strict route refuses,
and test_openapi_requests.py for generated requests.
"""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from apps import SERVICES
from tests.support.documents import committed
from tests.support.fixtures import Run
from tests.support.harness import RunningService

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Operation:
    """One operation of a service's OpenAPI document."""

    service: str
    method: str
    path: str
    definition: dict[str, Any] = field(repr=False)
    schemas: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"

    @property
    def body(self) -> dict[str, Any] | None:
        """The example of the request body; None without one."""
        content = self.definition.get("requestBody", {}).get("content", {})
        example: dict[str, Any] | None = content.get("application/json", {}).get("example")
        return example

    def parameters(self, place: str) -> list[str]:
        return [p["name"] for p in self.definition["parameters"] if p.get("in") == place]


def operations() -> list[Operation]:
    found = []
    for service in SERVICES:
        document = committed(service, "openapi.json")
        schemas = document["components"]["schemas"]
        for path, methods in document["paths"].items():
            for method, definition in methods.items():
                if definition["tags"] != ["operations"]:
                    found.append(Operation(service, method, path, definition, schemas))
    return found


OPERATIONS = operations()
WITH_BODY = [operation for operation in OPERATIONS if operation.body]
WITH_IDS = [operation for operation in OPERATIONS if operation.parameters("path")]
WITH_KEY = [op for op in OPERATIONS if "Idempotency-Key" in op.parameters("header")]
SECURED = [operation for operation in OPERATIONS if "security" in operation.definition]
LISTS = [operation for operation in OPERATIONS if "cursor" in operation.parameters("query")]


class Endpoint:
    """One operation of a running service, with a user who is allowed to call it."""

    def __init__(self, operation: Operation, service: RunningService) -> None:
        self.operation = operation
        self.service = service
        self.user: UUID = uuid7()

    def token(self, **claims: Any) -> str:
        operators_only = self.operation.path == "/notification/send"
        role = "operator" if operators_only else "user"
        return self.service.signer.token(self.user, **({"role": role} | claims))

    async def asked(
        self,
        body: Any = None,
        *,
        content: bytes | None = None,
        query: str = "",
        headers: dict[str, str] | None = None,
        token: str | None = None,
        id: str | None = None,
    ) -> httpx.Response:
        path = self.operation.path
        for name in self.operation.parameters("path"):
            path = path.replace(f"{{{name}}}", id or str(self.user))
        if body is not None:
            content = json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {token or self.token()}"}
        sent |= JSON if content is not None else {}
        async with self.service.http() as http:
            return await http.request(
                self.operation.method.upper(),
                f"{path}?{query}" if query else path,
                content=content,
                headers=sent | (headers or {}),
            )

    async def written(self) -> dict[str, str]:
        """A hash of each table in the service's database."""
        tables = await self.service.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        prints = {}
        for (name,) in tables:
            rows = (
                f"SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM {name} t"
            )
            prints[name] = await self.service.value(rows)
        return prints


@pytest.fixture
async def endpoint(request: pytest.FixtureRequest, running_service: Run) -> AsyncIterator[Endpoint]:
    operation: Operation = request.param
    service = await running_service(operation.service)
    made = Endpoint(operation, service)
    before = await made.written()
    yield made
    assert await made.written() == before, "the request changed a table"


def at(operations: list[Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("endpoint", operations, ids=str, indirect=True)


def is_problem(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    summary = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    assert answer.status_code in statuses, summary
    assert answer.headers["content-type"] == "application/problem+json", summary
    assert answer.headers["x-correlation-id"], summary
    document: dict[str, Any] = answer.json()
    assert set(document) >= {"type", "title", "status", "detail", "instance", "reason"}, summary
    assert document["status"] == answer.status_code
    return document


# Request bodies.

MALFORMED = [
    b"",
    b" ",
    b"{",
    b"{}x",
    b"[]",
    b"1",
    b'"text"',
    b"null",
    b"NaN",
    b"{'a': 1}",
    b'{"a": 1',
    b"\xff\xfe{",
    b"\x00",
    b"[" * 20_000,
    b'{"a":' * 10_000,
]


@at(WITH_BODY)
async def test_a_malformed_body(endpoint: Endpoint) -> None:
    for content in MALFORMED:
        is_problem(await endpoint.asked(content=content), 422)
    sound = json.dumps(endpoint.operation.body)
    is_problem(await endpoint.asked(content=sound.encode()[:-1]), 422)
    is_problem(await endpoint.asked(content=sound.encode("utf-16")), 422)
    twice = sound[:-1] + "," + sound[1:]
    is_problem(await endpoint.asked(content=twice.encode()), 422)


@at(WITH_BODY)
async def test_a_body_of_another_type(endpoint: Endpoint) -> None:
    content = json.dumps(endpoint.operation.body).encode()
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "application/xml"):
        is_problem(await endpoint.asked(content=content, headers={"Content-Type": kind}), 415)


@at(OPERATIONS)
async def test_a_body_that_is_too_large(endpoint: Endpoint) -> None:
    is_problem(await endpoint.asked({"name": "x" * 1_000_000}), 413)


@at(OPERATIONS)
async def test_an_unknown_field(endpoint: Endpoint) -> None:
    declared = endpoint.operation.body or {}
    for name in ("balance", "role", "userId", "status", "id", "version", "isAdmin", "", "\u00e9"):
        if name not in declared:
            is_problem(await endpoint.asked(declared | {name: "operator"}), 422)


TEXTS: list[Any] = [None, True, 0, 1.5, [], {}, ["a"], "", "\0", "a\0b", "\ud800", "a\udfff"]
IDS: list[Any] = [None, True, 1, [], {}, "", "x", "0" * 31, "\0", "../../etc/passwd"]
AMOUNTS: list[Any] = [
    *(None, True, False, [], {}, "", " ", "x", "NaN", "Infinity", "-Infinity", "1e2", "0x10"),
    *(0, -0.0, -1, -0.01, 1.005, 0.001, 1e-9, 10**13, 10**12 + 1, 10**400, 1e300, -1e300),
    *("0", "0.00", "-1", "+1", " 1", "1 ", "1.", ".5", "01", "1,50", "1_000", "1.005", "1" * 40),
    *("10000000000000", "1000000000000.01", "\u0661", "1\u00a0000", "\uff11", "1\n", "1\0"),
]


@at(WITH_BODY)
async def test_a_field_of_another_type(endpoint: Endpoint) -> None:
    assert endpoint.operation.body
    for name, sound in endpoint.operation.body.items():
        bad = AMOUNTS if name in ("amount", "totalPrice") else IDS if name == "userId" else TEXTS
        for value in bad:
            answer = await endpoint.asked(endpoint.operation.body | {name: value})
            document = is_problem(answer, 422)
            assert document["errors"], (name, value, sound)


@at(WITH_BODY)
async def test_a_malformed_number(endpoint: Endpoint) -> None:
    assert endpoint.operation.body
    for name in endpoint.operation.body:
        for value in (
            "NaN",
            "10.000000000000000001",
            "999999999999.999999",
            "Infinity",
            "-Infinity",
            "1e999",
            "-1e999",
            "1" * 5000,
            "1.5.5",
            "0x1",
        ):
            content = json.dumps(endpoint.operation.body | {name: "@"}).replace('"@"', value)
            is_problem(await endpoint.asked(content=content.encode()), 422)


@at(WITH_BODY)
async def test_a_missing_field(endpoint: Endpoint) -> None:
    schema = endpoint.operation.definition["requestBody"]["content"]["application/json"]["schema"]
    body = endpoint.operation.schemas[schema["$ref"].rpartition("/")[2]]
    assert endpoint.operation.body
    for name in body.get("required", []):
        rest = {key: value for key, value in endpoint.operation.body.items() if key != name}
        is_problem(await endpoint.asked(rest), 422)
    is_problem(await endpoint.asked({}), 422)


# Paths and query strings.


@at(OPERATIONS)
async def test_an_unknown_query(endpoint: Endpoint) -> None:
    for query in (
        "nope=1",
        "x",
        "userid=1",
        "limit=1&limit=1",
        "%00=%00",
        "cursor=%00",
        "=",
        "%ff=%ff",
    ):
        is_problem(await endpoint.asked(endpoint.operation.body, query=query), 422)


@at(LISTS)
async def test_an_invalid_cursor(endpoint: Endpoint) -> None:
    cursors = ("x", "", "0", "-1", "1.5", "..", "%00", "%F0%9F%98%80", "9" * 64, "A" * 32, "null")
    for cursor in cursors:
        is_problem(await endpoint.asked(query=f"cursor={cursor}"), 422)
    for limit in ("0", "-1", "201", "1.5", "x", "", "1e1", "9" * 30, "true", "%D9%A1%2E", "null"):
        is_problem(await endpoint.asked(query=f"limit={limit}"), 422)
    for name in set(endpoint.operation.parameters("query")) - {"cursor", "limit"}:
        for value in ("", "x", "%00", "PAID", "null", "1", "'", "x" * 10_000):
            is_problem(await endpoint.asked(query=f"{name}={value}"), 422)


@at(WITH_IDS)
async def test_a_malformed_id(endpoint: Endpoint) -> None:
    for id in (
        "x",
        "0",
        "-1",
        "null",
        "%00",
        "%FF",
        "%20",
        "'",
        "*",
        "0" * 31,
        "x" * 2_000,
        f"{uuid7()}x",
    ):
        is_problem(await endpoint.asked(endpoint.operation.body, id=id), 422)


@at(WITH_IDS)
async def test_an_id_that_is_unknown_or_of_another_user(endpoint: Endpoint) -> None:
    document = is_problem(await endpoint.asked(endpoint.operation.body, id=str(uuid7())), 404)
    assert document["reason"] == "not_found"


# Authentication and headers.


@at(SECURED)
async def test_an_unauthenticated_request(endpoint: Endpoint) -> None:
    now = int(time.time())
    another = type(endpoint.service.signer)("another")
    tokens = {
        "none": "",
        "no token": "x",
        "expired": endpoint.token(exp=now - 1),
        "forged": another.token(endpoint.user),
        "without an end": endpoint.token(exp=None),
        "for another": endpoint.token(aud="others"),
        "nested": "W" * 1_900 + ".e30.AA",
        "too long": "x" * 100_000,
    }
    for name, token in tokens.items():
        answer = await endpoint.asked(
            endpoint.operation.body, headers={"Authorization": f"Bearer {token}".strip()}
        )
        is_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer", name
    for value in ("Bearer", "bearer ", "Basic YTpi", "x", "Bearer \xff", "Bearer a b"):
        header = value.encode("latin-1")
        answer = await endpoint.asked(endpoint.operation.body, headers={"Authorization": header})  # type: ignore[dict-item]
        is_problem(answer, 401)


@at([operation for operation in OPERATIONS if operation.path == "/notification/send"])
async def test_a_user_at_a_route_of_operators(endpoint: Endpoint) -> None:
    document = is_problem(
        await endpoint.asked(endpoint.operation.body, token=endpoint.token(role="user")), 403
    )
    assert document["reason"] == "forbidden"


@at(WITH_KEY)
async def test_a_malformed_idempotency_key(endpoint: Endpoint) -> None:
    for key in (
        b"",
        b" ",
        b"a b",
        b"\xc3\xbc",
        b"\xff",
        b"x" * 256,
        b"x" * 10_000,
        b"\t",
        b"a\x7f",
    ):
        headers = {"Idempotency-Key": key}
        is_problem(await endpoint.asked(endpoint.operation.body, headers=headers), 422)  # type: ignore[arg-type]


@at([operation for operation in OPERATIONS if "Prefer" in operation.parameters("header")])
async def test_a_preference_that_is_too_long(endpoint: Endpoint) -> None:
    answer = await endpoint.asked(
        endpoint.operation.body, headers={"Prefer": "wait=1," + "x" * 100}
    )
    is_problem(answer, 422)


@at(OPERATIONS)
async def test_an_unsupported_method(endpoint: Endpoint) -> None:
    path = endpoint.operation.path.replace("{", "").replace("}", "")
    async with endpoint.service.http() as http:
        for method in ("DELETE", "PUT", "OPTIONS", "TRACE", "PROPFIND"):
            answer = await http.request(method, path)
            is_problem(answer, 405)
            assert endpoint.operation.method.upper() in answer.headers["allow"].split(", ")


@pytest.mark.parametrize(
    "preference", ["wait", "wait=", "wait=x", "wait=-1", "x", "respond-async", ""]
)
async def test_a_malformed_preference_is_ignored(orders: RunningService, preference: str) -> None:
    async with orders.http(uuid7()) as http:
        answer = await http.post(
            "/order/create", json={"totalPrice": 1}, headers={"Prefer": preference}
        )
    assert answer.status_code == 201
    assert "preference-applied" not in answer.headers
