"""The ASGI application of a service: routes, error handlers, and one layer of middleware."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from chassis.web import problems, routing
from chassis.web.routing import StrictRoute


class Application(FastAPI):
    """FastAPI without the layers of middleware that no service here uses."""

    def build_middleware_stack(self) -> ASGIApp:
        """The error handlers around the router, and the added layers around both; the last added is outermost."""
        app: ASGIApp = ExceptionMiddleware(self.router, self.exception_handlers)
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection. FastAPI's own telemetry is not consulted each time."""
        await Starlette.__call__(self, scope, receive, send)


def build_application(
    name: str,
    *,
    description: str,
    routers: Sequence[APIRouter],
    lifespan: Lifespan[FastAPI],
    tags: dict[str, str],
) -> FastAPI:
    """Build the application; `tags` are those of the routes with their descriptions. Raises TypeError.

    Every route must be a StrictRoute.
    """
    routes = [route for router in routers for route in router.routes]
    if not all(isinstance(route, StrictRoute) for route in routes):
        raise TypeError(f"{name}: the router needs route_class=StrictRoute")
    app = Application(
        title=f"Chorus {name}",
        description=description,
        version="1",
        license_info={"name": "MIT"},
        servers=[{"url": "/", "description": "The service that gives this document."}],
        openapi_tags=[{"name": tag, "description": text} for tag, text in tags.items()],
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    routing.install(app)
    # Added as they are: the routes of an included router are looked for twice with each request.
    app.routes.extend(routes)
    return app
