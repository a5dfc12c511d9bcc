"""What a route's function is called with, worked out along a list instead of a tree.

FastAPI finds out at start what a route needs and walks that tree again for each request: most of what an order costs at
the door. A route that needs no more than most do (a body, headers, parts of the path, other functions) and makes its
`Response` itself (it is annotated `-> Response`) gets the tree as a list of steps. Every other route keeps FastAPI's
own way, and the answers are the same. Decision 14 tells what that gains.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

ABSENT: Final = object()
"""Stands for a header that was not sent, and for the body of a request that has none."""

_WRONG: Final = object()
"""Stands for the result of a function that could not be called."""

Errors = list[dict[str, Any]]


class _NotSimpleError(Exception):
    """The route needs something that only FastAPI itself gives."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    """An argument that a part of the request becomes, by FastAPI's description of it (a `ModelField`)."""

    name: str
    place: tuple[str, ...]
    field: Any

    def read(self, value: Any, errors: Errors) -> Any:
        if value is not ABSENT:
            value, wrong = self.field.validate(value, {}, loc=self.place)
            errors += wrong
            return value
        if self.field.field_info.is_required():
            errors.append(
                {"type": "missing", "loc": self.place, "msg": "Field required", "input": None}
            )
        return self.field.default


@dataclass(frozen=True, slots=True)
class _Step:
    """A function to call. `inner` says which of its arguments earlier steps have made."""

    call: Callable[..., Any]
    inner: tuple[tuple[str, int], ...]
    path: tuple[_Parameter, ...]
    headers: tuple[tuple[bytes, _Parameter], ...]
    body: _Parameter | None
    request: str | None

    def values(
        self,
        request: Request,
        headers: Mapping[bytes, bytes],
        document: Any,
        results: Sequence[Any],
        errors: Errors,
    ) -> dict[str, Any]:
        values: dict[str, Any] = {name: results[place] for name, place in self.inner}
        for parameter in self.path:
            part = request.path_params[parameter.place[-1]]
            values[parameter.name] = parameter.read(part, errors)
        for header, parameter in self.headers:
            sent = headers.get(header)
            text = ABSENT if sent is None else sent.decode("latin-1")
            values[parameter.name] = parameter.read(text, errors)
        if self.body is not None:
            values[self.body.name] = self.body.read(document, errors)
        if self.request is not None:
            values[self.request] = request
        return values


class Arguments:
    """The steps to one route's answer; the last of them is the route's own function."""

    def __init__(self, steps: Sequence[_Step]) -> None:
        self._steps = steps

    @classmethod
    def of(cls, route: APIRoute) -> Self | None:
        """The steps of a route; None if it is one that FastAPI must handle itself."""
        if inspect.signature(route.endpoint).return_annotation is not Response:
            return None
        steps: list[_Step] = []
        try:
            _collect(route.dependant, steps, {})
        except _NotSimpleError:
            return None
        return cls(steps)

    async def answer(
        self, request: Request, headers: Mapping[bytes, bytes], document: Any
    ) -> Response:
        """Call the functions in turn. `headers` have lower-case names; `document` is the body's JSON, or ABSENT.

        Raises RequestValidationError with everything that is wrong, or whatever one of the functions raises.
        """
        results: list[Any] = []
        errors: Errors = []
        for step in self._steps:
            known = len(errors)
            values = step.values(request, headers, document, results, errors)
            # The last step does not run either if a guard was wrong, whose result is no argument.
            wrong = errors and (
                len(errors) > known
                or step is self._steps[-1]
                or any(value is _WRONG for value in values.values())
            )
            results.append(_WRONG if wrong else await step.call(**values))
        if errors:
            raise RequestValidationError(errors)
        response: Response = results[-1]
        return response


def _collect(needs: Dependant, steps: list[_Step], places: dict[Any, int]) -> int:
    """Append the steps to what a function needs, and the function; returns its place among the steps."""
    call = needs.call
    if call in places:
        return places[call]
    if not _is_simple(needs) or call is None:
        raise _NotSimpleError
    inner = []
    for one in needs.dependencies:
        place = _collect(one, steps, places)
        if one.name:
            inner.append((one.name, place))
    body = [_Parameter(field.name, ("body",), field) for field in needs.body_params]
    headers = [_Parameter(f.name, ("header", f.alias), f) for f in needs.header_params]
    step = _Step(
        call,
        tuple(inner),
        tuple(_Parameter(f.name, ("path", f.alias), f) for f in needs.path_params),
        tuple((header.place[-1].lower().encode(), header) for header in headers),
        body[0] if body else None,
        needs.request_param_name,
    )
    steps.append(step)
    places[call] = len(steps) - 1
    return places[call]


def _is_simple(needs: Dependant) -> bool:
    special = (
        needs.query_params,
        needs.cookie_params,
        needs.websocket_param_name,
        needs.http_connection_param_name,
        needs.response_param_name,
        needs.background_tasks_param_name,
        needs.security_scopes_param_name,
        needs.concurrency,
        not needs.use_cache,
        needs.body_params[1:],
        not inspect.iscoroutinefunction(needs.call)
        and not inspect.iscoroutinefunction(type(needs.call).__call__),
    )
    return not any(special)
