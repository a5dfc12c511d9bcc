"""The OpenAPI document of a service: FastAPI's own, completed with what all services have in common.

Problems on every route, headers of requests and answers, and an example of everything.
"""

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from chassis.web.examples import Examples, example_id
from chassis.web.problems import (
    MEDIA_TYPE,
    ContentTooLarge,
    Fault,
    Invalid,
    ProblemDocument,
    Unavailable,
    UnsupportedMediaType,
    documented,
)

Document = dict[str, Any]

EVERYWHERE: Final = documented(ContentTooLarge, UnsupportedMediaType, Invalid, Fault, Unavailable)
"""The answers that every route may give."""

UNTOLD: Final = "Successful Response"
"""What FastAPI says of an answer of which nothing is said."""


def located(status: int) -> dict[int | str, Document]:
    """For the `responses` of a route that says where the new thing is."""
    return {status: {"headers": {"Location": {"$ref": "#/components/headers/Location"}}}}


def _text(description: str, example: str) -> Document:
    return {"description": description, "schema": {"type": "string"}, "example": example}


_FLOW: Final = str(example_id("flow"))

_HEADERS: Final = {
    "X-Correlation-Id": _text(
        "The flow that the request began or belongs to; all its events carry it.", _FLOW
    ),
    "Location": _text("The path of what has been made.", f"/order/{example_id('order')}"),
    "Idempotent-Replayed": _text(
        "`true` if this answer was given before, to the same key.", "true"
    ),
    "Preference-Applied": _text("The preference that was followed (RFC 7240).", "wait=10"),
    "Retry-After": _text("Seconds to wait before the next attempt.", "1"),
    "WWW-Authenticate": _text("How to say who you are.", "Bearer"),
}

_PARAMETERS: Final = {
    "X-Correlation-Id": {
        "name": "X-Correlation-Id",
        "in": "header",
        "required": False,
        "description": "The flow that this request belongs to: up to 128 letters, digits and `._:/-`. "
        "Anything else is replaced by a new id.",
        "schema": {"type": "string"},
        "example": _FLOW,
    },
    "traceparent": {
        "name": "traceparent",
        "in": "header",
        "required": False,
        "description": "W3C Trace Context; anything else is replaced by a new trace.",
        "schema": {"type": "string"},
        "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
}


def operation_id(route: APIRoute) -> str:
    """The name of a route's function: `create_order`."""
    return route.name


def install(app: FastAPI) -> None:
    """Complete the application's document, once, when it is first asked for."""
    given: Callable[[], Document] = app.openapi
    made: list[Document] = []
    one_at_a_time = Lock()

    def openapi() -> Document:
        with one_at_a_time:
            if not made:
                made.append(_completed(given()))
        return made[0]

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: Document) -> Document:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, problem = models_json_schema(
        [(ProblemDocument, "validation")], ref_template="#/components/schemas/{model}"
    )
    schemas |= problem["$defs"]
    components["headers"] = _HEADERS
    components["parameters"] = _PARAMETERS
    examples = Examples(schemas)
    for path, operation in _operations(document):
        _complete_request(operation, examples)
        _complete_answers(operation, examples, _filled_in(path, operation, examples))
    return document


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation


def _complete_request(operation: Document, examples: Examples) -> None:
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _given(parameter["schema"])
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content.setdefault("example", examples.of(content["schema"]))


def _given(schema: Document) -> Document:
    """A parameter is there or not; null is nothing that could be written in a query or a header."""
    choices = [part for part in schema.get("anyOf", ()) if part != {"type": "null"}]
    if len(choices) != 1:
        return schema
    rest = {key: part for key, part in schema.items() if key not in ("anyOf", "default")}
    return {**choices[0], **rest}


def _filled_in(path: str, operation: Document, examples: Examples) -> str:
    for parameter in operation["parameters"]:
        if parameter.get("in") == "path":
            name = parameter["name"]
            path = path.replace(f"{{{name}}}", quote(str(examples.of(parameter["schema"], name))))
    return path


def _complete_answers(operation: Document, examples: Examples, path: str) -> None:
    asked_with = {parameter.get("name") for parameter in operation["parameters"]}
    answers = operation["responses"]
    operation["responses"] = {status: answers[status] for status in sorted(answers)}
    for status, answer in answers.items():
        answer["headers"] = answer.get("headers", {}) | {
            name: {"$ref": f"#/components/headers/{name}"} for name in _headers(status, asked_with)
        }
        for media_type, content in answer.get("content", {}).items():
            if media_type == MEDIA_TYPE:
                for example in content["examples"].values():
                    example["value"]["instance"] = path
            elif media_type == "application/json":
                content.setdefault("example", examples.of(content["schema"]))
                if answer["description"] == UNTOLD:
                    answer["description"] = examples.said_of(content["schema"])
            else:
                content.pop(
                    "itemSchema", None
                )  # of OpenAPI 3.2; what is in a stream is said in words


def _headers(status: str, asked_with: set[str | None]) -> Iterator[str]:
    yield "X-Correlation-Id"
    decided = status[0] == "2" or status in {"403", "404", "409"}
    if decided and "Idempotency-Key" in asked_with:
        yield "Idempotent-Replayed"
    if status in {"201", "202", "403"} and "Prefer" in asked_with:
        yield "Preference-Applied"
    if status in {"429", "503"}:
        yield "Retry-After"
    if status == "401":
        yield "WWW-Authenticate"
