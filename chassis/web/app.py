"""The ASGI application of a service: its routes behind one layer of middleware."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Lifespan

from chassis.runtime.settings import settings
from chassis.web.context import Telemetry
from chassis.web.dependencies import Provided
from chassis.web.routing import StrictRoute

EXPOSED: Final = (
    "Idempotent-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Correlation-Id",
)
"""The headers of responses that scripts of other origins may read."""


class Application(FastAPI):
    """FastAPI without middleware but Telemetry and, if origins are set, CORS; and without its own telemetry."""

    __call__ = Starlette.__call__

    def __init__(self, **options: Any) -> None:
        super().__init__(openapi_url=None, redirect_slashes=False, **options)
        self.state.provided = Provided()

    def build_middleware_stack(self) -> ASGIApp:
        """What handles a connection."""
        app = Telemetry(self.router)
        origins = [
            origin.strip() for origin in settings().cors_origins.split(",") if origin.strip()
        ]
        if not origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PATCH", "PUT"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=600,
        )


def build_application(
    name: str,
    *,
    description: str,
    routers: Sequence[APIRouter],
    lifespan: Lifespan[FastAPI],
    tags: dict[str, str],
) -> FastAPI:
    """Build the application; `tags` maps each tag of the routes to its description.

    Raises TypeError if a route is not a StrictRoute.
    """
    routes = [route for router in routers for route in router.routes]
    if not all(isinstance(route, StrictRoute) for route in routes):
        raise TypeError(f"{name}: the router needs route_class=StrictRoute")
    app = Application(
        title=f"Chorus {name}",
        description=description,
        version="1",
        license_info={"name": "MIT"},
        servers=[{"url": "/", "description": "The service that serves this document."}],
        openapi_tags=[{"name": tag, "description": text} for tag, text in tags.items()],
        lifespan=lifespan,
    )
    # Added directly: with `include_router` each request is matched against the routes twice.
    app.routes.extend(routes)
    return app
