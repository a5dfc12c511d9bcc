"""The ASGI application of a service: routes, error handlers, and one layer of middleware."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from chassis.web import problems, routing
from chassis.web.routing import StrictRoute


class Application(FastAPI):
    """FastAPI without the middleware that no service uses."""

    def build_middleware_stack(self) -> ASGIApp:
        """The router inside the error handlers inside the added middleware, of which the last is outermost."""
        app: ASGIApp = ExceptionMiddleware(self.router, self.exception_handlers)
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection, without FastAPI's own telemetry."""
        await Starlette.__call__(self, scope, receive, send)


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
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    routing.install(app)
    # Added directly: with `include_router` each request is matched against the routes twice.
    app.routes.extend(routes)
    return app
