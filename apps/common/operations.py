"""What operators and their tools ask a service: is it alive, is it ready, what are its figures."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

router = APIRouter(tags=["operations"])


@router.get("/live")
async def live() -> dict[str, str]:
    """The process runs and its event loop turns."""
    return {"status": "live"}


@router.get("/ready", responses={503: {"description": "A server that the service needs is away."}})
async def ready(request: Request) -> JSONResponse:
    """The service can work: its database and its broker answer."""
    checks = await request.app.state.service.ready()
    all_well = all(checks.values())
    status = "ready" if all_well else "not ready"
    return JSONResponse({"status": status, "checks": checks}, 200 if all_well else 503)


@router.get("/metrics")
async def metrics() -> Response:
    """Figures in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
