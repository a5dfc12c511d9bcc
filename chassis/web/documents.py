"""What a service tells of itself to people and tools: OpenAPI and AsyncAPI, as documents and as pages.

The pages work offline: everything that they load comes from this service, and their policy lets nothing else in.
"""

import json
import re
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from chassis.messaging.addresses import node_urls
from chassis.runtime.settings import settings
from chassis.web.pages import sections
from chassis.web.problems import NotFound
from chassis.web.routing import StrictRoute
from tools.asyncapi.document import Described, asyncapi

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the pages may load. Swagger UI sets styles on its elements and draws with data: images."""

_ASSETS: Final = {
    "swagger-ui-bundle.js": ("fastapi_swagger.resources", "text/javascript"),
    "swagger-ui.css": ("fastapi_swagger.resources", "text/css"),
    "favicon-32x32.png": ("fastapi_swagger.resources", "image/png"),
    "start.js": ("chassis.web.templates", "text/javascript"),
    "asyncapi.css": ("chassis.web.templates", "text/css"),
}


def router(service: Described) -> APIRouter:
    """The routes of the documents and their pages. They run in threads: making a document takes a while."""
    routes = APIRouter(include_in_schema=False, route_class=StrictRoute)

    @cache
    def told() -> dict[str, Any]:
        return asyncapi(replace(service, broker_url=_broker_url(service.name)))

    @routes.get("/openapi.json")
    def openapi_document(request: Request) -> Response:
        return JSONResponse(request.app.openapi())

    @routes.get("/docs")
    def openapi_page() -> Response:
        return _page("docs.html", title=f"Chorus {service.name}")

    @routes.get("/asyncapi.json")
    def asyncapi_document() -> Response:
        return JSONResponse(told())

    @routes.get("/asyncapi")
    def asyncapi_page() -> Response:
        return _page("asyncapi.html", document=told(), sections=sections(told()))

    @routes.get("/docs/{name}")
    def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise NotFound("There is no such file.")
        return _asset(name)

    return routes


def _broker_url(service: str) -> str | None:
    try:
        return node_urls(settings().broker_url(service))[0]
    except LookupError:
        return None  # the document is wanted where the service does not run


def _page(template: str, **values: Any) -> Response:
    html = _templates().get_template(template).render(**values)
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(html, headers=headers)


def _asset(name: str) -> Response:
    package, media_type = _ASSETS[name]
    content = resources.files(package).joinpath(name).read_bytes()
    headers = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=media_type, headers=headers)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("chassis.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    made.filters["prose"] = _prose
    return made


def _prose(text: str) -> Markup:
    """Text with `code` in it, as docstrings and descriptions have it."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped
