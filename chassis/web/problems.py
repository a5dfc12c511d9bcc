"""Errors as RFC 9457 problem details: one base class, one renderer.

A domain error is a type with a status and a stable slug (`reason`); its docstring is its title. Use cases return
them as results (a refusal is no fault), routes and dependencies raise them.
"""

import inspect
import json
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Any, ClassVar, Final, Self
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from chassis.database.errors import CommitUnknownError, is_transient
from chassis.database.group_commit import OverloadedError, UnavailableError

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = "1"


class Problem(Exception):
    """The request cannot be fulfilled."""

    status: ClassVar[int] = 400
    reason: ClassVar[str | None] = None
    title: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.title = (inspect.getdoc(cls) or "").split("\n")[0].rstrip(".")

    def __init__(
        self, detail: str = "", *, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.more = more
        """Further members of the problem document."""

    def document(self, instance: str) -> dict[str, Any]:
        """The problem as RFC 9457 wants it."""
        return _document(self.status, self.title, self.detail, instance, self.reason, self.more)

    @classmethod
    def example(cls) -> Self:
        """One of its kind, for the documentation."""
        return cls()


class NotFound(Problem):
    """There is no such thing, or it is not yours."""

    status = 404
    reason = "not_found"


class Unauthorized(Problem):
    """A valid access token is needed."""

    status = 401
    reason = "unauthorized"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Problem):
    """Your role does not allow this."""

    status = 403
    reason = "forbidden"


class MethodNotAllowed(Problem):
    """This path does not have this method."""

    status = 405
    reason = "method_not_allowed"

    def __init__(self, allowed: Iterable[str]) -> None:
        super().__init__(headers={"Allow": ", ".join(allowed)})


class ContentTooLarge(Problem):
    """The body is too large."""

    status = 413
    reason = "content_too_large"


class UnsupportedMediaType(Problem):
    """The body is of a type that this service does not read."""

    status = 415
    reason = "unsupported_media_type"


class Invalid(Problem):
    """The request is not valid."""

    status = 422
    reason = "invalid_request"

    @classmethod
    def at(cls, field: str, message: str) -> Self:
        """What is wrong with one field."""
        return cls.of([{"field": field, "message": message}])

    @classmethod
    def of(cls, errors: list[dict[str, str]]) -> Self:
        """What is wrong with each `field`, in a `message`."""
        return cls("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)

    @classmethod
    def example(cls) -> Self:
        """One of its kind, for the documentation."""
        return cls.at("limit", "Input should be less than or equal to 200")


class KeyReused(Problem):
    """This Idempotency-Key was used for another request."""

    status = 422
    reason = "idempotency_key_reused"


class Unavailable(Problem):
    """The service cannot do this right now; try again."""

    status = 503
    reason = "unavailable"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Retry-After": RETRY_AFTER_SECONDS})


class Fault(Problem):
    """The service failed."""

    status = 500
    reason = "internal_error"


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The request is not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["totalPrice: must be more than 0 and at most 1000000000000.00"])
    instance: str = Field(description="The path of the request.", examples=["/order/create"])
    reason: str | None = Field(None, description="A stable slug.", examples=["invalid_request"])
    errors: list[FieldError] | None = Field(None, description="What is wrong, field by field.")


def documented(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI, with an example for each problem."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        example = problem.example().document("/")
        response = responses.setdefault(
            problem.status,
            {
                "description": example["title"],
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                        "examples": {},
                    }
                },
            },
        )
        response["content"][MEDIA_TYPE]["examples"][problem.reason or problem.__name__] = {
            "value": example
        }
    return responses


def _document(
    status: int,
    title: str,
    detail: str,
    instance: str,
    reason: str | None,
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": f"urn:chorus:problem:{reason}" if reason else "about:blank",
        "title": title,
        "status": status,
        "detail": detail or title,
        "instance": quote(instance, safe="/:@!$&'()*+,;=~"),
    }
    if reason:
        document["reason"] = reason
    return document | (more or {})


def render(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A problem document as a response."""
    return Response(
        json.dumps(document), document["status"], headers=headers, media_type=MEDIA_TYPE
    )


@lru_cache(maxsize=16)
def rendered(problem: Problem, path: str) -> Response:
    """The response to a request that is refused often: made once for each problem and path."""
    return render(problem.document(path), problem.headers)


def install(app: FastAPI) -> None:
    """Make every error of an application a problem document."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return render(error.document(request.scope["path"]), error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        title = HTTPStatus(error.status_code).phrase
        reason = title.lower().replace(" ", "_")
        path = request.scope["path"]
        document = _document(error.status_code, title, str(error.detail), path, reason)
        return render(document, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        problem = Invalid.of([_field_error(e) for e in error.errors()[:20]])
        return render(problem.document(request.scope["path"]))

    @app.exception_handler(OverloadedError)
    @app.exception_handler(UnavailableError)
    async def _unavailable(request: Request, error: Exception) -> Response:
        return unavailable(request.scope["path"], error)

    @app.exception_handler(CommitUnknownError)
    async def _unknown(request: Request, error: CommitUnknownError) -> Response:
        log.error("http.commit_unknown", path=request.scope["path"], error=repr(error))
        return _outcome_unknown(request.scope["path"], "The connection to the database was lost")


def unavailable(path: str, error: Exception) -> Response:
    """The answer to a request that can be sent again in a moment."""
    log.warning("http.unavailable", error=repr(error), path=path)
    problem = Unavailable("Nothing has been done. Try again shortly.")
    return render(problem.document(path), problem.headers)


def given_up(path: str) -> Response:
    """The answer to a request that the end of the service has overtaken."""
    log.warning("http.given_up", path=path)
    return _outcome_unknown(path, "The service stops")


def failed(path: str, error: Exception) -> Response:
    """The answer to a request that nothing else has answered: 503 if a server is away, else 500."""
    if _server_is_away(error):
        return unavailable(path, error)
    log.error("http.fault", path=path, exc_info=error)
    return render(Fault().document(path))


def _outcome_unknown(path: str, why: str) -> Response:
    problem = Unavailable(
        f"{why}: this may have been done or not. Repeat it with the same Idempotency-Key."
    )
    return render(problem.document(path), problem.headers)


def _server_is_away(error: BaseException | None) -> bool:
    # SQLAlchemy wraps what the driver raises.
    while error is not None:
        if is_transient(error) or isinstance(error, PoolTimeoutError):
            return True
        error = error.__cause__
    return False


def _field_error(error: dict[str, Any]) -> dict[str, str]:
    where, *place = map(str, error["loc"])  # where: body, query, path or header
    return {
        "field": ".".join(place)[:200] or where,
        "message": str(error["msg"]).removeprefix("Value error, ")[:300],
    }
