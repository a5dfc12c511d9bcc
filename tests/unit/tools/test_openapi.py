"""The OpenAPI documents of the services: valid, complete, with an example of everything."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
import schemathesis

from apps import SERVICES
from tests.support.documents import committed
from tests.unit.tools.test_asyncapi import at, fetched, references

Document = dict[str, Any]

EVERYWHERE = {"413", "415", "422", "500", "503"}


@pytest.fixture(params=SERVICES)
def document(request: pytest.FixtureRequest) -> Document:
    return committed(request.param, "openapi.json")


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def fits(document: Document, schema: Document, value: Any) -> bool:
    whole = schema | {"components": document["components"]}
    return jsonschema_rs.is_valid(whole, value, validate_formats=True)


def test_a_document_is_valid_openapi(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()


def test_every_reference_leads_somewhere(document: Document) -> None:
    for reference in references(document):
        assert at(document, reference.replace("~1", "/")) is not None


def test_a_document_introduces_itself(document: Document) -> None:
    assert document["info"]["title"].startswith("Chorus ")
    assert document["info"]["description"]
    assert document["servers"] == [
        {"url": "/", "description": "The service that serves this document."}
    ]
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in operations(document):
        assert set(operation["tags"]) <= described, name
        assert operation["description"], name
        assert operation["operationId"].isidentifier(), name


def test_no_operation_has_the_name_of_another(document: Document) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_every_error_is_a_problem_with_examples(document: Document) -> None:
    for name, operation in operations(document):
        assert set(operation["responses"]) >= EVERYWHERE, name
        for status, answer in operation["responses"].items():
            if status < "400":
                continue
            [(media_type, content)] = answer["content"].items()
            assert media_type == "application/problem+json", (name, status)
            assert content["schema"] == {"$ref": "#/components/schemas/ProblemDocument"}
            for example in content["examples"].values():
                assert fits(document, content["schema"], example["value"]), (name, status)
                assert example["value"]["status"] == int(status)
                assert "{" not in example["value"]["instance"], name


def test_every_response_and_body_has_a_valid_example(document: Document) -> None:
    for name, operation in operations(document):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for part in [*bodies, *operation["responses"].values()]:
            content = part.get("content", {}).get("application/json")
            if content:
                assert fits(document, content["schema"], content["example"]), (name, content)


def test_operations_that_require_a_token_declare_it(document: Document) -> None:
    [scheme] = (
        document["components"].get("securitySchemes", {"Bearer": {"scheme": "bearer"}}).values()
    )
    assert scheme["scheme"] == "bearer"
    for name, operation in operations(document):
        if "security" in operation:
            assert "401" in operation["responses"], name
            assert "WWW-Authenticate" in operation["responses"]["401"]["headers"], name


def test_requests_tried_out_share_no_flow(document: Document) -> None:
    """Swagger UI sends what a parameter has as `example`, `examples` or `default`, also in its schema."""
    for name in ("X-Correlation-Id", "traceparent"):
        parameter = document["components"]["parameters"][name]
        for part in (parameter, parameter["schema"]):
            assert not part.keys() & {"default", "enum", "example", "examples"}, name
        assert "Example: `" in parameter["description"], name


def test_headers_are_documented(document: Document) -> None:
    for name, operation in operations(document):
        asked = {
            parameter.get("name") or at(document, parameter["$ref"])["name"]
            for parameter in operation["parameters"]
        }
        assert asked >= {"X-Correlation-Id", "traceparent"}, name
        for status, answer in operation["responses"].items():
            assert "X-Correlation-Id" in answer["headers"], (name, status)
            assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"}), (
                name,
                status,
            )
            if "Idempotency-Key" in asked and status.startswith("2"):
                assert "Idempotent-Replayed" in answer["headers"], (name, status)
            if "Prefer" in asked and status.startswith("2"):
                assert "Preference-Applied" in answer["headers"], (name, status)
            if operation["operationId"] in {"create_order", "register", "send_message"}:
                assert ("Location" in answer["headers"]) == (
                    status in answer_with_location(operation)
                )


def answer_with_location(operation: Document) -> set[str]:
    by_operation = {"send_message": {"202"}, "create_order": {"201", "202"}}
    return by_operation.get(operation["operationId"], {"201"})


def test_the_refusal_of_a_payment_names_the_order() -> None:
    document = committed("orders", "openapi.json")
    refused = document["paths"]["/order/create"]["post"]["responses"]["403"]["content"]
    [example] = refused["application/problem+json"]["examples"].values()
    assert example["value"]["orderId"]


def test_every_authenticated_post_accepts_an_idempotency_key(document: Document) -> None:
    for name, operation in operations(document):
        takes = any(p.get("name") == "Idempotency-Key" for p in operation["parameters"])
        assert takes == (name.startswith("post ") and "security" in operation), name


def test_no_text_of_the_framework_is_left(document: Document) -> None:
    text = str(document)
    assert "HTTPValidationError" not in text
    assert "Successful Response" not in text
    assert "itemSchema" not in text


@pytest.mark.parametrize("service", SERVICES)
async def test_the_page_loads_nothing_from_elsewhere(service: str) -> None:
    page = await fetched(service, "/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in page.text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(addresses) >= 4
    for address in addresses:
        answer = await fetched(service, f"/{address}")
        assert answer.status_code == 200, address
        assert address == "openapi.json" or answer.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    start = (await fetched(service, "/docs/start.js")).text
    assert "validatorUrl: null" in start
    assert 'url: "openapi.json"' in start


async def test_an_unknown_static_file_is_not_found() -> None:
    for name in ("nope.js", "..%2F..%2Ffactory.py", "docs.html"):
        answer: httpx.Response = await fetched("orders", f"/docs/{name}")
        assert answer.status_code == 404
        assert answer.json()["reason"] == "not_found"
