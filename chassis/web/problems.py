"""Errors as RFC 9457 problem details: one base class, one place that maps exceptions, one renderer.

A refusal is a type with a status and a stable slug (`reason`); its docstring is its title. Use cases return refusals
as results; routes and dependencies raise them.
"""

import asyncio
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import quote

import structlog
from fastapi import Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from chassis.database.errors import CommitUnknownError, is_transient
from chassis.database.group_commit import OverloadedError, UnavailableError

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = "1"
OUTCOME_UNKNOWN: Final = "this may have been done or not. Repeat it with the same Idempotency-Key."

_UNAVAILABLE: Final = (OverloadedError, UnavailableError, PoolTimeoutError)

Headers = Mapping[str, str]


class Problem(Exception):
    """The request cannot be fulfilled."""

    title: str
    status = 400
    reason = "bad_request"
    headers: Headers = MappingProxyType({})

    def __init_subclass__(
        cls, *, status: int = 0, reason: str = "", headers: Headers | None = None
    ) -> None:
        cls.title = (inspect.getdoc(cls) or "").split("\n")[0].rstrip(".")
        cls.status, cls.reason = status or cls.status, reason or cls.reason
        cls.headers = headers or cls.headers

    def __init__(self, detail: str = "", *, headers: Headers | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = {**self.headers, **(headers or {})}
        self.more = more
        """Further members of the problem document."""

    def document(self, instance: str) -> dict[str, Any]:
        """The problem document (RFC 9457); `instance` is the path of the request."""
        return {
            "type": f"urn:chorus:problem:{self.reason}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail or self.title,
            "instance": quote(instance, safe="/:@!$&'()*+,;=~"),
            "reason": self.reason,
            **self.more,
        }

    @classmethod
    def example(cls) -> Self:
        """An instance for the documentation."""
        return cls()


class NotFound(Problem, status=404, reason="not_found"):
    """It does not exist, or it is not yours."""


class Unauthorized(
    Problem, status=401, reason="unauthorized", headers={"WWW-Authenticate": "Bearer"}
):
    """A valid access token is needed."""


class Forbidden(Problem, status=403, reason="forbidden"):
    """Your role does not allow this."""


class MethodNotAllowed(Problem, status=405, reason="method_not_allowed"):
    """This path does not support this method."""


class ContentTooLarge(Problem, status=413, reason="content_too_large"):
    """The body is too large."""


class UnsupportedMediaType(Problem, status=415, reason="unsupported_media_type"):
    """The body is of a media type that this service does not accept."""


class Invalid(Problem, status=422, reason="invalid_request"):
    """The request is not valid."""

    @classmethod
    def at(cls, field: str, message: str) -> Self:
        """The refusal of one field."""
        return cls.of([{"field": field, "message": message}])

    @classmethod
    def of(cls, errors: list[dict[str, str]]) -> Self:
        """The refusal of several fields; each error has a `field` and a `message`."""
        return cls("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)

    @classmethod
    def example(cls) -> Self:
        """An instance for the documentation."""
        return cls.at("limit", "Input should be less than or equal to 200")


class KeyReused(Problem, status=422, reason="idempotency_key_reused"):
    """This Idempotency-Key was used for another request."""


class Unavailable(
    Problem, status=503, reason="unavailable", headers={"Retry-After": RETRY_AFTER_SECONDS}
):
    """The service cannot do this now; try again."""


class Fault(Problem, status=500, reason="internal_error"):
    """The service failed."""


class FieldError(BaseModel):
    """Why one field of a request is not valid."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The request is not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["totalPrice: must be more than 0 and at most 1000000000000.00"])
    instance: str = Field(description="The path of the request.", examples=["/order/create"])
    reason: str | None = Field(None, description="A stable slug.", examples=["invalid_request"])
    errors: list[FieldError] | None = Field(None, description="Each field that is not valid.")


def documented(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI, with an example for each problem."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        example = problem.example().document("/")
        content = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}, "examples": {}}
        response = responses.setdefault(
            problem.status, {"description": problem.title, "content": {MEDIA_TYPE: content}}
        )
        response["content"][MEDIA_TYPE]["examples"][problem.reason] = {"value": example}
    return responses


def render(problem: Problem, path: str) -> Response:
    """The response that refuses a request to a path."""
    document = json.dumps(problem.document(path))
    return Response(document, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


render_cached = lru_cache(maxsize=16)(render)
"""The same for a problem that many requests get: made once for each problem and path."""


def problem_of(error: BaseException, path: str) -> Problem:
    """The problem that reports an error to the client. An error that the client has not caused is logged."""
    match error:
        case Problem():
            return error
        case RequestValidationError():
            return Invalid.of([_field_error(e) for e in error.errors()[:20]])
        case HTTPException():
            problem = Problem(str(error.detail), headers=dict(error.headers or {}))
            problem.status, problem.title = error.status_code, HTTPStatus(error.status_code).phrase
            problem.reason = problem.title.lower().replace(" ", "_")
            return problem
        case _:
            return _fault(error, path)


def _fault(error: BaseException, path: str) -> Problem:
    match error:
        case CommitUnknownError():
            log.error("http.commit_unknown", path=path, error=repr(error))
            return Unavailable(f"The connection to the database was lost: {OUTCOME_UNKNOWN}")
        case asyncio.CancelledError():
            log.warning("http.interrupted", path=path)
            return Unavailable(f"The service stops: {OUTCOME_UNKNOWN}")
        case _ if _nothing_done(error):
            log.warning("http.unavailable", error=repr(error), path=path)
            return Unavailable("Nothing has been done. Try again shortly.")
        case _:
            log.error("http.fault", path=path, exc_info=error)
            return Fault()


def _nothing_done(error: BaseException | None) -> bool:
    """Whether a server was unavailable, or the service too busy. SQLAlchemy wraps the driver's errors."""
    return error is not None and (
        is_transient(error) or isinstance(error, _UNAVAILABLE) or _nothing_done(error.__cause__)
    )


def _field_error(error: dict[str, Any]) -> dict[str, str]:
    where, *place = map(str, error["loc"])  # `where` is body, query, path or header
    return {
        "field": ".".join(place)[:200] or where,
        "message": str(error["msg"]).removeprefix("Value error, ")[:300],
    }
