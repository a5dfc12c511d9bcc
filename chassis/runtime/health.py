"""What operators and their tools ask a service: is it alive, is it ready, what are its figures."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from chassis.web.problems import Problem, documented
from chassis.web.routing import StrictRoute
from chassis.web.schemas import View

router = APIRouter(tags=["operations"], route_class=StrictRoute)


class LiveView(View):
    """A sign of life."""

    status: Literal["live"] = "live"


class ReadyView(View):
    """Which servers answer."""

    status: Literal["ready"] = "ready"
    checks: dict[str, bool] = Field(examples=[{"database": True, "broker": True}])


class NotReady(Problem):
    """A server that the service needs does not answer."""

    status = 503
    reason = "not_ready"

    @classmethod
    def example(cls) -> "NotReady":
        """One of its kind, for the documentation."""
        return cls(checks={"database": True, "broker": False})


@router.get("/live")
async def live() -> LiveView:
    """The process runs and its event loop turns."""
    return LiveView()


@router.get("/ready", responses=documented(NotReady))
async def ready(request: Request) -> ReadyView:
    """The service can work: its database and its broker answer."""
    checks: dict[str, bool] = await request.app.state.service.ready()
    if not all(checks.values()):
        raise NotReady(checks=checks)
    return ReadyView(checks=checks)


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    response_description="A text for Prometheus to read.",
)
async def metrics() -> Response:
    """Figures in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
