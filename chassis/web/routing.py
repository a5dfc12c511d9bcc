"""Strict routes: a request that a route does not document is refused before the route's own code runs.

Refused are bodies that are too large, of another media type or not strict JSON, query parameters that the route does
not declare, and methods that the path does not support. A router applies this by its route class:

    router = APIRouter(prefix="/order", tags=["orders"], route_class=StrictRoute)
"""

import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ValidationError, create_model
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from chassis.web.context import context_of
from chassis.web.dependencies import Provided
from chassis.web.problems import (
    ContentTooLarge,
    Fault,
    Invalid,
    MethodNotAllowed,
    Unavailable,
    UnsupportedMediaType,
    documented,
)

EVERYWHERE: Final = documented(ContentTooLarge, UnsupportedMediaType, Invalid, Fault, Unavailable)
"""The responses that every route may return."""

BODY_LIMIT: Final = 64 * 1024
"""Bytes of a request's body."""

ABSENT: Final = object()
"""The JSON of a request without a body."""

B = TypeVar("B", bound=BaseModel)
H = TypeVar("H", bound=BaseModel)

_JSON_TYPE: Final = re.compile(
    rb'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE
)
_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(\\\\)*\\u0000")


class StrictRoute(APIRoute):
    """A route that accepts what it documents and refuses everything else with a problem."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **described: Any) -> None:
        described["responses"] = {**EVERYWHERE, **(described.get("responses") or {})}
        described["generate_unique_id_function"] = attrgetter("name")  # the function's
        super().__init__(path, endpoint, **described)
        self.app = AsyncExitStackMiddleware(self.app)  # FastAPI's handler requires it

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, behind the checks."""
        handle = super().get_route_handler()
        known = frozenset(_query_names(self.dependant))
        has_parameters = bool(self.param_convertors)
        # A HEAD request would have to wait for the end of the stream.
        streams = self.response_class is EventSourceResponse

        async def strictly(request: Request) -> Response:
            shadowed = has_parameters and request.scope["path"] in _literal_paths(request.app)
            if shadowed or (streams and context_of(request).head):
                raise _method_not_allowed(request.scope)
            read = await read_request(request, known)
            if self.body_field is None and read.document not in ({}, ABSENT):
                raise Invalid.at("body", "this request has no body")
            return await handle(read)

        return strictly

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request to the path. Raises MethodNotAllowed."""
        if scope["method"] not in (self.methods or ()):
            raise _method_not_allowed(scope)
        await self.app(scope, receive, send)


class DirectRoute(StrictRoute):
    """A route that is documented by one function's signature and handled by another, `handler`.

    The handler receives the request and the objects that the composition root has provided, and makes all checks
    itself. Without FastAPI's dependency injection a request costs half as much CPU time; this is for the one route that
    needs it.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        handler: Callable[[Request, Provided], Awaitable[Response]],
        **described: Any,
    ) -> None:
        super().__init__(path, endpoint, **described)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await handler(Request(scope, receive, send), scope["app"].state.provided)
            await response(scope, receive, send)

        self.app = app


class ReadRequest(Request):
    """A request whose body has been read; `document` is its JSON, or ABSENT."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._json = self.document = strict_json(body) if body else ABSENT


async def read_request(request: Request, known: AbstractSet[str] = frozenset()) -> ReadRequest:
    """Check the query, with its `known` parameters, and read the body.

    Raises ContentTooLarge, UnsupportedMediaType, or Invalid, also for a body that is not strict JSON.
    """
    if request.scope["query_string"]:
        _check_query(request.query_params.multi_items(), known)
    headers, body = context_of(request).headers, b""
    if len(headers) < len(request.scope["headers"]):
        _check_repeated(request.scope["headers"])
    if int(headers.get(b"content-length", b"0")) > BODY_LIMIT:
        raise ContentTooLarge  # before the client sends it; the server accepts digits only
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise ContentTooLarge
    except ClientDisconnect:
        raise Invalid.at("body", "ended too early") from None
    if body and not _JSON_TYPE.fullmatch(headers.get(b"content-type", b"")):
        raise UnsupportedMediaType("Send the body as `Content-Type: application/json`.")
    return ReadRequest(request, body)


def _check_repeated(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise Invalid for a repeated header that has one value: which of them counts would be a guess."""
    names = [name for name, _ in headers]
    for name in ("Authorization", "Content-Type", "Idempotency-Key"):
        if names.count(name.lower().encode()) > 1:
            raise Invalid.at(name, "is repeated")


def _check_query(parameters: Sequence[tuple[str, str]], known: AbstractSet[str]) -> None:
    """Raise Invalid for a parameter that is unknown, is repeated, or contains a NUL character."""
    for name, value in parameters:
        if name not in known:
            raise Invalid.at(name, "is not a parameter of this request")
        if "\0" in value:
            raise Invalid.at(name, "contains a NUL character")
    if len(dict(parameters)) < len(parameters):
        raise Invalid.at("query", "contains a repeated parameter")


def validated_request(request: ReadRequest, headers: type[H], body: type[B]) -> tuple[H, B]:
    """The headers and the body of a request as models. Raises RequestValidationError with all errors of both."""
    sent = context_of(request).headers
    names = {field.alias or name for name, field in headers.model_fields.items()}
    found = {n: sent[k].decode("latin-1") for n in names if (k := n.lower().encode()) in sent}
    parts: dict[str, Any] = {"header": found}
    if request.document is not ABSENT:
        parts["body"] = request.document
    try:
        made: Any = _both(headers, body).model_validate(parts, from_attributes=True)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    return made.header, made.body


@cache
def _both(headers: type[BaseModel], body: type[BaseModel]) -> type[BaseModel]:
    return create_model("HeadersAndBody", header=(headers, ...), body=(body, ...))


def strict_json(body: bytes) -> Any:
    """A body's JSON. Raises Invalid for what RFC 8259 leaves to implementations, and for text that PostgreSQL rejects.

    That is: encodings other than UTF-8, NaN and infinities, repeated fields, NUL characters, unpaired surrogates,
    numbers with thousands of digits, and nesting beyond Python's recursion limit.
    """
    try:
        document = _decode(body.decode())
        if b"\\u" in body:
            _check_escapes(body, document)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise Invalid.at("body", f"is not strict JSON: {error}") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it contains a repeated field")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _check_escapes(body: bytes, document: Any) -> None:
    if _ESCAPED_NUL.search(body):
        raise ValueError("it contains a NUL character")
    json.dumps(
        document, ensure_ascii=False, default=str
    ).encode()  # fails for an unpaired surrogate


# Numbers are read as Decimal: a float would be rounded before its decimal places are checked.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Decimal, parse_constant=_constant
).decode


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (part.alias or name for name, part in kind.model_fields.items())
        else:
            yield field.alias
    for inner in dependant.dependencies:
        yield from _query_names(inner)


@cache
def _literal_paths(app: FastAPI) -> frozenset[str]:
    """Paths without parameters. They take precedence: `/user/login` is never a `/user/{userId}`, with any method."""
    return frozenset(route.path for route in _routes(app) if not route.param_convertors)


def _method_not_allowed(scope: Scope) -> MethodNotAllowed:
    """The refusal, with the methods that the path supports."""
    path = scope["path"]
    literal = path in _literal_paths(scope["app"])
    found: set[str] = set()
    for route in _routes(scope["app"]):
        if route.path == path if literal else route.path_regex.match(path):
            methods = route.methods or set()
            found |= methods
            if "GET" in methods and route.response_class is not EventSourceResponse:
                found.add("HEAD")
    return MethodNotAllowed(headers={"Allow": ", ".join(sorted(found))})


def _routes(app: FastAPI) -> list[StrictRoute]:
    return [route for route in app.routes if isinstance(route, StrictRoute)]
