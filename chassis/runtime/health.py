"""Liveness, readiness and metrics, for operators and their tools."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from chassis.web.dependencies import provided
from chassis.web.problems import Problem, documented
from chassis.web.routing import StrictRoute
from chassis.web.schemas import View

router = APIRouter(tags=["operations"], route_class=StrictRoute)


class LiveView(View):
    """The process runs."""

    status: Literal["live"] = "live"


class ReadyView(View):
    """The service is ready; `checks` are the servers that it needs."""

    status: Literal["ready"] = "ready"
    checks: dict[str, bool] = Field(examples=[{"database": True, "broker": True}])


class NotReady(Problem, status=503, reason="not_ready"):
    """A server that the service needs does not respond."""

    @classmethod
    def example(cls) -> "NotReady":
        """An instance for the documentation."""
        return cls(checks={"database": True, "broker": False})


class Readiness:
    """Checks whether the servers of a service respond; each check is a round trip with a timeout."""

    def __init__(self, **checks: Callable[[], Awaitable[bool]]) -> None:
        self._checks = checks

    async def check(self) -> dict[str, bool]:
        """Whether each server responds, by name."""
        results = await asyncio.gather(*(check() for check in self._checks.values()))
        return dict(zip(self._checks, results, strict=True))


ReadinessDep = Annotated[Readiness, Depends(provided(Readiness))]


@router.get("/live")
async def live() -> LiveView:
    """The process runs and its event loop responds."""
    return LiveView()


@router.get("/ready", responses=documented(NotReady))
async def ready(readiness: ReadinessDep) -> ReadyView:
    """The service can work: its database and its broker respond."""
    checks = await readiness.check()
    if not all(checks.values()):
        raise NotReady(checks=checks)
    return ReadyView(checks=checks)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    response_description="Prometheus' text format.",
)
async def metrics() -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
