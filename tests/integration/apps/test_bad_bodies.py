"""Bad bodies to every operation: a problem document with 413, 415 or 422, and no write."""

import json
from typing import Any

from tests.support.operations import (
    OPERATIONS,
    WITH_BODY,
    Endpoint,
    at,
    is_problem,
)

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
    b"1e9999999999999999999",
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
            if isinstance(value, bool) and isinstance(sound, bool):
                continue
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
