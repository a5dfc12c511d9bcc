"""What every route refuses before its own code runs.

Bodies that are too large, of another type or no strict JSON; fields of a query that the route does not declare;
methods that the path does not have. A route takes part by its class:

    router = APIRouter(prefix="/order", tags=["orders"], route_class=StrictRoute)
"""

import json
import re
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any, Final, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.web import openapi
from chassis.web.arguments import ABSENT, Arguments
from chassis.web.problems import (
    ContentTooLarge,
    Invalid,
    MethodNotAllowed,
    Problem,
    UnsupportedMediaType,
    render,
)

BODY_LIMIT: Final = 64 * 1024
"""Bytes of a request's body."""

HEAD: Final = "chorus.head"
"""In the scope of a GET that a HEAD was made into; the server leaves out the body."""

GUARD: Final = "chorus_guard"
"""The attribute of a route's function that `guarded` sets."""

Guard = Callable[[], Problem | None]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_JSON_TYPE: Final = re.compile(
    rb'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE
)


class StrictRoute(APIRoute):
    """A route that takes what it documents and refuses the rest as a problem."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **described: Any) -> None:
        described["responses"] = {**openapi.EVERYWHERE, **(described.get("responses") or {})}
        described["generate_unique_id_function"] = openapi.operation_id
        super().__init__(path, endpoint, **described)
        guard = getattr(endpoint, GUARD, None)
        if Arguments.of(self) is not None:
            self.app = _answering(self.get_route_handler(), guard)
        elif guard is not None:
            raise TypeError(f"{path}: only a route that makes its Response itself can be guarded")
        else:
            self.app = AsyncExitStackMiddleware(self.app)  # FastAPI's own way asks for it

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, behind the checks. A request without query and body passes at once."""
        handle = super().get_route_handler()
        arguments = Arguments.of(self)
        known = frozenset(_query_names(self.dependant))
        has_parameters = bool(self.param_convertors)

        async def strictly(request: Request) -> Response:
            scope = request.scope
            if has_parameters and scope["path"] in _literal_paths(request.app):
                raise HTTPException(405)
            if scope["query_string"]:
                _check_query(request, known)
            headers = scope["chorus.headers"]
            document = ABSENT
            if b"content-length" in headers or b"transfer-encoding" in headers:
                request = await self._read(request, headers)
                document = request.document
            if arguments is not None:
                return await arguments.answer(request, headers, document)
            return await handle(request)

        async def without_head(request: Request) -> Response:
            if HEAD in request.scope:
                raise HTTPException(405)
            return await strictly(request)

        # A stream's headers say nothing that is worth waiting for its end.
        return without_head if self.response_class is EventSourceResponse else strictly

    async def _read(self, request: Request, headers: dict[bytes, bytes]) -> "_Read":
        body = await _bounded_body(request, headers.get(b"content-length", b"0"))
        if not body:
            return _Read(request, b"", ABSENT)
        if not _JSON_TYPE.fullmatch(headers.get(b"content-type", b"")):
            raise UnsupportedMediaType("Send the body as `Content-Type: application/json`.")
        document = strict_json(body)
        if self.body_field is None and document != {}:
            raise Invalid.at("body", "this request takes none")
        return _Read(request, body, document)


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (part.alias or name for name, part in kind.model_fields.items())
        else:
            yield field.alias
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def _check_query(request: Request, known: frozenset[str]) -> None:
    seen = set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise Invalid.at(name, "is not a parameter of this request")
        if name in seen:
            raise Invalid.at(name, "stands there twice")
        if "\0" in value:
            raise Invalid.at(name, "has a NUL character")
        seen.add(name)


class _Read(Request):
    """A request whose body has been read."""

    def __init__(self, request: Request, body: bytes, document: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._json = self.document = document


def guarded(refusal: Guard) -> Callable[[Endpoint], Endpoint]:
    """Ask `refusal` before anything of a request is looked at, and answer with what it gives unless that is None.

    To refuse must cost little where it is done because there is too much to do: no body is read, nothing is raised, and
    the same problem is written only once.
    """

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, GUARD, refusal)
        return endpoint

    return mark


def _answering(
    handle: Callable[[Request], Coroutine[Any, Any, Response]], guard: Guard | None
) -> ASGIApp:
    """A route without what FastAPI keeps ready for dependencies that are closed after the answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if guard is not None and (problem := guard()) is not None:
            response = _written(problem, scope["path"])
        else:
            response = await handle(Request(scope, receive, send))
        await response(scope, receive, send)

    return app


@lru_cache(maxsize=16)
def _written(problem: Problem, path: str) -> Response:
    return render(problem.document(path), problem.headers)


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
    """Say which methods a path has, where it is asked for another."""

    @app.exception_handler(405)
    async def _method_not_allowed(request: Request, _: Exception) -> Response:
        path = request.scope["path"]
        problem = MethodNotAllowed(_allowed_methods(app, path))
        return render(problem.document(path), problem.headers)


@cache
def _literal_paths(app: FastAPI) -> frozenset[str]:
    """Paths that a route names letter by letter: `/user/login` is no `/user/{userId}`, whatever the method."""
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
    """A body's JSON. Raises Invalid for what RFC 8259 leaves open, and for text that no database takes.

    That is: another encoding than UTF-8, NaN and infinities, a field that stands twice, NUL characters, halves of
    surrogate pairs, numbers of thousands of digits, and nesting that no reader follows.
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
        raise Invalid.at("body", "has a number of too many digits") from None
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Invalid.at("body", "has a field that stands twice")
    return found


def _constant(name: str) -> Any:
    raise Invalid.at("body", f"is not JSON: {name} is no number")


# Numbers stay as they were written: a float would round 10.001 and worse before anybody looks at its places.
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
            raise Invalid.at("body", "has a NUL character")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise Invalid.at("body", "has half of a surrogate pair")
