"""Errors as RFC 9457 problem details: one base class, one renderer.

A domain error is a type with a status and a stable slug (`reason`); its docstring is its title. Use cases return
them as results (a refusal is no fault), routes and dependencies raise them.
"""

import inspect
import json
from http import HTTPStatus
from typing import Any, ClassVar, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from events.bus.committer import OverloadedError, UnavailableError
from events.bus.transaction import CommitUnknownError

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = "1"


class Problem(Exception):
    """The request cannot be fulfilled."""

    status: ClassVar[int] = 400
    reason: ClassVar[str | None] = None

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
        title = (inspect.getdoc(type(self)) or "").split("\n")[0].rstrip(".")
        return _document(self.status, title, self.detail, instance, self.reason, self.more)


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


class Invalid(Problem):
    """The request is not valid."""

    status = 422
    reason = "invalid_request"


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


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 describes it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The request is not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["totalPrice: must be more than 0 and at most 1000000000000.00"])
    instance: str = Field(description="The path of the request.", examples=["/order/create"])
    reason: str | None = Field(None, description="A stable slug.", examples=["invalid_request"])


def documented(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI, with an example for each problem."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        example = problem().document("/")
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
        "instance": instance,
    }
    if reason:
        document["reason"] = reason
    return document | (more or {})


def render(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A problem document as a response."""
    return Response(
        json.dumps(document), document["status"], headers=headers, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Make every error of an application a problem document."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return render(error.document(request.url.path), error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        title = HTTPStatus(error.status_code).phrase
        reason = title.lower().replace(" ", "_")
        path = request.url.path
        document = _document(error.status_code, title, str(error.detail), path, reason)
        return render(document, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [_field_error(e) for e in error.errors()[:20]]
        detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors)
        return render(Invalid(detail, errors=errors).document(request.url.path))

    @app.exception_handler(OverloadedError)
    @app.exception_handler(UnavailableError)
    async def _unavailable(request: Request, error: Exception) -> Response:
        log.warning("http.unavailable", error=repr(error), path=request.url.path)
        problem = Unavailable("Nothing has been done. Try again shortly.")
        return render(problem.document(request.url.path), problem.headers)

    @app.exception_handler(CommitUnknownError)
    async def _unknown(request: Request, error: CommitUnknownError) -> Response:
        log.error("http.commit_unknown", path=request.url.path, error=repr(error))
        problem = Unavailable(
            "The connection to the database was lost: this may have been done or not. "
            "Repeat it with the same Idempotency-Key."
        )
        return render(problem.document(request.url.path), problem.headers)

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> Response:
        log.error("http.fault", path=request.url.path, exc_info=error)
        return render(
            _document(500, "Internal Server Error", "", request.url.path, "internal_error")
        )


def _field_error(error: dict[str, Any]) -> dict[str, str]:
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path", "header")]
    return {
        "field": ".".join(place)[:200] or str(error["loc"][0]),
        "message": str(error["msg"]).removeprefix("Value error, ")[:300],
    }
