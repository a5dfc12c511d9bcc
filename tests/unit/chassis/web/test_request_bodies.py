"""Request bodies: strict JSON of limited size, or a problem."""

import contextlib
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.web.problems import Invalid
from chassis.web.routing import BODY_LIMIT, strict_json
from tests.unit.chassis.web.conftest import JSON, is_problem

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
    "beyond any exponent": b'{"amount": 1e9999999999999999999}',
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
