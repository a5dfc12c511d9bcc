"""Serves a service's OpenAPI and AsyncAPI documents and their pages.

`python -m tools.documents write` makes the files, in `documents/` of the service's package. The pages work offline:
they load only files of this service, and their Content-Security-Policy allows nothing else.
"""

import json
from collections.abc import Callable
from functools import cache
from html import escape
from importlib import resources
from typing import Final
from urllib.parse import unquote, urlsplit

from fastapi import APIRouter, Response

from chassis.messaging.addresses import node_urls
from chassis.runtime.settings import settings
from chassis.web.problems import NotFound
from chassis.web.routing import StrictRoute

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the pages may load. Swagger UI sets styles on its elements and draws with data: images."""

SERVICE: Final = "__SERVICE__"
BROKER: Final = "__BROKER__"
VHOST: Final = "__VHOST__"
"""Placeholders in the files: the service's name, the broker's host and port, and its virtual host."""

_STATIC: Final = "chassis.web.static"
_ASSETS: Final = {
    "swagger-ui-bundle.js": ("fastapi_swagger.resources", "text/javascript"),
    "swagger-ui.css": ("fastapi_swagger.resources", "text/css"),
    "favicon-32x32.png": ("fastapi_swagger.resources", "image/png"),
    "start.js": (_STATIC, "text/javascript"),
    "asyncapi.css": (_STATIC, "text/css"),
}


def router(service: str, package: str | None) -> APIRouter:
    """The routes of the documents and their pages. Without the service's package there are no documents."""
    routes = APIRouter(include_in_schema=False, route_class=StrictRoute)
    folder = package and f"{package}.documents"
    routes.get("/openapi.json")(_document(service, folder, "openapi.json"))
    routes.get("/asyncapi.json")(_document(service, folder, "asyncapi.json"))
    routes.get("/asyncapi")(_document(service, folder, "asyncapi.html"))
    routes.get("/docs")(_document(service, _STATIC, "docs.html"))
    routes.get("/docs/{name}")(_asset)
    return routes


def _document(service: str, folder: str | None, name: str) -> Callable[[], Response]:
    @cache
    def read() -> str:
        if folder is None:
            raise NotFound("This service has no documents.")
        text = (resources.files(folder) / name).read_text("utf-8")
        escaped = escape if name.endswith(".html") else lambda value: json.dumps(value)[1:-1]
        return _filled_in(text, service, escaped)

    def serve() -> Response:
        if name.endswith(".json"):
            return Response(read(), media_type="application/json")
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return Response(read(), headers=headers, media_type="text/html")

    return serve


def _filled_in(text: str, service: str, escaped: Callable[[str], str]) -> str:
    """The text with its placeholders replaced. Only the address of the broker is shown, never the login."""
    try:
        url = urlsplit(node_urls(settings().broker_url(service))[0])
    except LookupError:
        url = urlsplit("amqp://127.0.0.1")  # documents can be read where the service does not run
    text = text.replace(SERVICE, escaped(service))
    text = text.replace(BROKER, escaped(f"{url.hostname}:{url.port or 5672}"))
    return text.replace(VHOST, escaped(unquote(url.path[1:]) or "/"))


def _asset(name: str) -> Response:
    if name not in _ASSETS:
        raise NotFound("There is no such file.")
    package, media_type = _ASSETS[name]
    content = (resources.files(package) / name).read_bytes()
    headers = {"Cache-Control": "public, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=media_type, headers=headers)
