"""Strict routes: a request that a route does not document is refused before the route's own code runs.

Refused are bodies that are too large, of another media type or not strict JSON, query parameters that the route does
not declare, and methods that the path does not support. A router applies this by its route class:

    router = APIRouter(prefix="/order", tags=["orders"], route_class=StrictRoute)
"""

import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from collections.abc import Set as AbstractSet
from decimal import Decimal
from functools import cache
from typing import Any, Final, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from chassis.web import openapi
from chassis.web.context import headers_of, is_head
from chassis.web.problems import (
    ContentTooLarge,
    Invalid,
    MethodNotAllowed,
    UnsupportedMediaType,
    render,
)

BODY_LIMIT: Final = 64 * 1024
"""Bytes of a request's body."""

ABSENT: Final = object()
"""The JSON of a request without a body."""

B = TypeVar("B", bound=BaseModel)
H = TypeVar("H", bound=BaseModel)

_JSON_TYPE: Final = re.compile(
    rb'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE
)


class StrictRoute(APIRoute):
    """A route that accepts what it documents and refuses everything else with a problem."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **described: Any) -> None:
        described["responses"] = {**openapi.EVERYWHERE, **(described.get("responses") or {})}
        described["generate_unique_id_function"] = openapi.operation_id
        super().__init__(path, endpoint, **described)
        self.app = AsyncExitStackMiddleware(self.app)  # FastAPI's handler requires it

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, behind the checks."""
        handle = super().get_route_handler()
        known = frozenset(_query_names(self.dependant))
        has_parameters = bool(self.param_convertors)

        async def strictly(request: Request) -> Response:
            if has_parameters and request.scope["path"] in _literal_paths(request.app):
                raise HTTPException(405)
            check_query(request, known)
            read = await read_body(request)
            if self.body_field is None and read.document not in ({}, ABSENT):
                raise Invalid.at("body", "this request has no body")
            return await handle(read)

        async def without_head(request: Request) -> Response:
            if is_head(request):
                raise HTTPException(405)
            return await strictly(request)

        # A HEAD request would have to wait for the end of the stream.
        return without_head if self.response_class is EventSourceResponse else strictly


class DirectRoute(StrictRoute):
    """A route that is documented by one function's signature and handled by another, `handler`.

    The handler receives the request and makes all checks itself. Without FastAPI's dependency injection a request costs
    half as much CPU time; this is for the one route that needs it.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        handler: Callable[[Request], Awaitable[Response]],
        **described: Any,
    ) -> None:
        super().__init__(path, endpoint, **described)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await handler(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app


class ReadRequest(Request):
    """A request whose body has been read; `document` is its JSON, or ABSENT."""

    def __init__(self, request: Request, body: bytes, document: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._json = self.document = document


async def read_body(request: Request) -> ReadRequest:
    """Read the body. Raises ContentTooLarge, UnsupportedMediaType, or Invalid if it is not strict JSON."""
    headers = headers_of(request)
    body = b""
    if b"content-length" in headers or b"transfer-encoding" in headers:
        body = await _bounded_body(request, headers.get(b"content-length", b"0"))
    if not body:
        return ReadRequest(request, b"", ABSENT)
    if not _JSON_TYPE.fullmatch(headers.get(b"content-type", b"")):
        raise UnsupportedMediaType("Send the body as `Content-Type: application/json`.")
    return ReadRequest(request, body, strict_json(body))


def validated_request(request: ReadRequest, headers: type[H], body: type[B]) -> tuple[H, B]:
    """The headers and the body of a request as models. Raises RequestValidationError with all errors of both."""
    sent = headers_of(request)
    fields = (field.alias or name for name, field in headers.model_fields.items())
    found = {
        name: sent[key].decode("latin-1")
        for name in fields
        if (key := name.lower().encode()) in sent
    }
    errors: list[Any] = []
    made = [
        _model(headers, "header", found, errors),
        _model(body, "body", request.document, errors),
    ]
    if errors:
        raise RequestValidationError(errors)
    return made[0], made[1]


def _model(kind: type[BaseModel], place: str, value: Any, errors: list[Any]) -> Any:
    if value is ABSENT:
        errors.append({"type": "missing", "loc": (place,), "msg": "Field required", "input": None})
        return None
    try:
        return kind.model_validate(value, from_attributes=True)
    except ValidationError as error:
        errors += [{**one, "loc": (place, *one["loc"])} for one in error.errors()]


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (part.alias or name for name, part in kind.model_fields.items())
        else:
            yield field.alias
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def check_query(request: Request, known: AbstractSet[str] = frozenset()) -> None:
    """Raise Invalid for a query parameter that is unknown, is repeated, or contains a NUL character."""
    if not request.scope["query_string"]:
        return
    seen = set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise Invalid.at(name, "is not a parameter of this request")
        if name in seen:
            raise Invalid.at(name, "is repeated")
        if "\0" in value:
            raise Invalid.at(name, "contains a NUL character")
        seen.add(name)


async def _bounded_body(request: Request, declared: bytes) -> bytes:
    if int(declared) > BODY_LIMIT:
        raise ContentTooLarge
    body = b""
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Invalid.at("body", "ended too early")
        chunk: bytes = message.get("body", b"")
        body += chunk
        if len(body) > BODY_LIMIT:
            raise ContentTooLarge
        if not message.get("more_body"):
            return body


def install(app: FastAPI) -> None:
    """Respond with the methods that a path supports (`Allow`) to a request with another one."""

    @app.exception_handler(405)
    async def _method_not_allowed(request: Request, _: Exception) -> Response:
        path = request.scope["path"]
        return render(MethodNotAllowed(_allowed_methods(app, path)), path)


@cache
def _literal_paths(app: FastAPI) -> frozenset[str]:
    """Paths without parameters. They take precedence: `/user/login` is never a `/user/{userId}`, with any method."""
    routes = iter_route_contexts(app.routes)
    return frozenset(route.path for route in routes if route.path and "{" not in route.path)


def _allowed_methods(app: FastAPI, path: str) -> list[str]:
    literal = path in _literal_paths(app)
    found: set[str] = set()
    for route in iter_route_contexts(app.routes):
        if literal and route.path != path:
            continue
        if route.methods and route.path_regex.match(path):
            found |= route.methods
            if "GET" in route.methods and route.response_class is not EventSourceResponse:
                found.add("HEAD")
    return sorted(found)


def strict_json(body: bytes) -> Any:
    """A body's JSON. Raises Invalid for what RFC 8259 leaves to implementations, and for text that PostgreSQL rejects.

    That is: encodings other than UTF-8, NaN and infinities, repeated fields, NUL characters, unpaired surrogates,
    numbers with thousands of digits, and nesting beyond Python's recursion limit.
    """
    try:
        document = _decode(body.decode())
        if b"\\u" in body:
            _check_text(document)
    except RecursionError:
        raise Invalid.at("body", "is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise Invalid.at("body", f"is not JSON: {error.msg} at character {error.pos}") from None
    except UnicodeDecodeError:
        raise Invalid.at("body", "is not UTF-8") from None
    except ValueError:
        raise Invalid.at("body", "contains a number with too many digits") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Invalid.at("body", "contains a repeated field")
    return found


def _constant(name: str) -> Any:
    raise Invalid.at("body", f"is not JSON: {name} is not a number")


# Numbers are read as Decimal: a float would be rounded before its decimal places are checked.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Decimal, parse_constant=_constant
).decode


def _check_text(value: Any) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)
    elif isinstance(value, str):
        if "\0" in value:
            raise Invalid.at("body", "contains a NUL character")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise Invalid.at("body", "contains an unpaired surrogate")
