"""Liveness, readiness and metrics, for operators and their tools."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from chassis.web.dependencies import provided
from chassis.web.problems import Problem, documented
from chassis.web.routing import StrictRoute
from chassis.web.schemas import View

CHECKS: Final = ("database", "broker", "publishing", "dead_lettering", "tasks")
"""What a service can do: write, consume, publish events, dead-letter; and whether its background tasks run."""

router = APIRouter(tags=["operations"], route_class=StrictRoute)


class LiveView(View):
    """The process runs."""

    status: Literal["live"] = "live"


class ReadyView(View):
    """The service is ready; `checks` are what it needs to work."""

    status: Literal["ready"] = "ready"
    checks: dict[str, bool] = Field(examples=[dict.fromkeys(CHECKS, True)])
    detail: str = Field(
        "",
        description="What an operator should mend although the service works.",
        examples=["topology: queue orders.payment-succeeded: missing"],
    )


class NotReady(Problem, status=503, reason="not_ready"):
    """Something that the service needs does not work."""

    @classmethod
    def example(cls) -> "NotReady":
        """An instance for the documentation."""
        return cls(
            "database: DiskFullError", checks=dict.fromkeys(CHECKS, True) | {"database": False}
        )


class Readiness:
    """Checks whether a service can work. A check gives the fault, without secrets, or an empty text.

    `remarks` gives what an operator should know beside, which makes no service unready.
    """

    def __init__(
        self, remarks: Callable[[], str] = str, /, **checks: Callable[[], Awaitable[str]]
    ) -> None:
        self.remarks = remarks
        self._checks = checks

    async def faults(self) -> dict[str, str]:
        """The fault that each check finds, by its name."""
        results = await asyncio.gather(*(check() for check in self._checks.values()))
        return dict(zip(self._checks, results, strict=True))


ReadinessDep = Annotated[Readiness, Depends(provided(Readiness))]


@router.get("/live")
async def live() -> LiveView:
    """The process runs and its event loop responds."""
    return LiveView()


@router.get("/ready", responses=documented(NotReady))
async def ready(readiness: ReadinessDep) -> ReadyView:
    """The service can work: it can write, consume, publish and dead-letter, and its tasks run."""
    faults = await readiness.faults()
    checks = {name: not fault for name, fault in faults.items()}
    found = [f"{name}: {fault}" for name, fault in faults.items() if fault]
    found += filter(None, [readiness.remarks()])
    if not all(checks.values()):
        raise NotReady("; ".join(found), checks=checks)
    return ReadyView(checks=checks, detail="; ".join(found))


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    response_description="Prometheus' text format.",
)
async def metrics() -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
