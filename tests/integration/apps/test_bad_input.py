"""Bad input to every operation: a problem document with the right 4xx, never a 500, and no write.

The operations come from the services' OpenAPI documents, so a new route is tested as well.
See tests/unit/chassis/web/test_routing.py and test_request_bodies.py for what every strict route refuses,
test_bad_bodies.py for bodies, and test_openapi_requests.py for generated requests.
"""

import time

import pytest
from uuid_utils.compat import uuid7

from chassis.web.auth import LEEWAY_SECONDS
from tests.support.harness import RunningService
from tests.support.operations import (
    LISTS,
    OPERATIONS,
    SECURED,
    WITH_IDS,
    WITH_KEY,
    Endpoint,
    at,
    is_problem,
)

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


# Authentication and headers.


@at(SECURED)
async def test_an_unauthenticated_request(endpoint: Endpoint) -> None:
    now = int(time.time())
    another = type(endpoint.service.signer)("another")
    tokens = {
        "none": "",
        "no token": "x",
        "expired": endpoint.token(exp=now - LEEWAY_SECONDS - 1),
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
        challenge = 'Bearer error="invalid_token"' if token else "Bearer"
        assert answer.headers["www-authenticate"] == challenge, name
    for value in ("Bearer", "bearer ", "Basic YTpi", "x", "Bearer \xff", "Bearer a b"):
        header = value.encode("latin-1")
        answer = await endpoint.asked(endpoint.operation.body, headers={"Authorization": header})  # type: ignore[dict-item]
        is_problem(answer, 401)


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
    template = endpoint.operation.path
    documented = {one.method.upper() for one in OPERATIONS if one.path == template}
    path = template.replace("{", "").replace("}", "")
    async with endpoint.service.http() as http:
        for method in {"DELETE", "PUT", "OPTIONS", "TRACE", "PROPFIND"} - documented:
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
