"""Completes FastAPI's OpenAPI document of a service with what all services have in common.

Schemas of problems, headers of requests and responses, and an example of everything.
"""

import re
from copy import deepcopy
from typing import Final

from pydantic.json_schema import models_json_schema

from chassis.web.problems import MEDIA_TYPE, ProblemDocument
from tools.documents.schemas import TRACEPARENT, Document, example, example_id, inlined

FASTAPI_DEFAULT: Final = "Successful Response"
"""How FastAPI describes a response without a description."""

_FLOW: Final = example_id("flow")
_HEADERS: Final = {
    "X-Correlation-Id": ("The flow of the request; all its events carry it.", _FLOW, "...", ""),
    "Location": ("The path of what was created.", f"/order/{example_id('order')}", "", ""),
    "Idempotent-Replayed": ("`true`: a stored response.", "true", "2..|40[349]", "Idempotency-Key"),
    "Preference-Applied": ("What was followed (RFC 7240).", "wait=10", "20[12]|403", "Prefer"),
    "Retry-After": ("Seconds to wait before the next attempt.", "1", "429|503", ""),
    "WWW-Authenticate": ("The authentication scheme.", "Bearer", "401", ""),
}
"""Headers of responses: description, example, the statuses that have it, the parameter that it depends on.

A route declares `Location` itself.
"""

_PARAMETERS: Final = {
    "X-Correlation-Id": ("The flow: up to 128 letters, digits and `._:/-`, or a new one.", _FLOW),
    "traceparent": ("W3C Trace Context; anything else is replaced by a new trace.", TRACEPARENT),
}
"""Headers that every request may have: description and example."""


def completed(generated: Document) -> Document:
    """The document that `FastAPI.openapi()` returned, completed."""
    document = deepcopy(generated)
    _, problem = models_json_schema(
        [(ProblemDocument, "validation")], ref_template="#/components/schemas/{model}"
    )
    components = document["components"]
    components["schemas"] |= problem["$defs"]
    components["headers"] = {name: _text(*header[:2]) for name, header in _HEADERS.items()}
    components["parameters"] = {
        name: {"name": name, "in": "header", "required": False, **_unset(*parameter)}
        for name, parameter in _PARAMETERS.items()
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete_request(operation, document)
            _complete_responses(operation, document, path)
    return document


def _text(description: str, example: str) -> Document:
    return {"description": description, "schema": {"type": "string"}, "example": example}


def _unset(description: str, example: str) -> Document:
    """A parameter whose example stands in its description: Swagger UI would send it, and all requests share a flow."""
    return {"description": f"{description} Example: `{example}`.", "schema": {"type": "string"}}


def _complete_request(operation: Document, document: Document) -> None:
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _without_null(parameter["schema"])
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content.setdefault("example", example(inlined(content["schema"], document)))


def _without_null(schema: Document) -> Document:
    """A parameter's schema: it is present or absent, a query or a header cannot express null."""
    if schema.get("anyOf", ())[1:] != [{"type": "null"}]:
        return schema
    rest = {key: part for key, part in schema.items() if key not in ("anyOf", "default")}
    return {**schema["anyOf"][0], **rest}


def _complete_responses(operation: Document, document: Document, path: str) -> None:
    parameters = {parameter.get("name"): parameter for parameter in operation["parameters"]}
    for name, parameter in parameters.items():
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", str(example(parameter["schema"], name)))
    operation["responses"] = dict(sorted(operation["responses"].items()))
    for status, response in operation["responses"].items():
        response["headers"] = response.get("headers", {}) | {
            name: {"$ref": f"#/components/headers/{name}"}
            for name, (_, _, statuses, parameter) in _HEADERS.items()
            if re.fullmatch(statuses, status) and parameter in {"", *parameters}
        }
        for media_type, content in response.get("content", {}).items():
            if media_type == MEDIA_TYPE:
                for problem in content["examples"].values():
                    problem["value"]["instance"] = path
            elif media_type == "application/json":
                schema = inlined(content["schema"], document)
                content.setdefault("example", example(schema))
                if response["description"] == FASTAPI_DEFAULT:
                    response["description"] = schema.get("description") or schema["title"]
            else:
                content.pop("itemSchema", None)  # of OpenAPI 3.2; the description has its content
