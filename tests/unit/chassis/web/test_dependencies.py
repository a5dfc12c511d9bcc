"""Objects of a service reach its routes by type."""

from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from chassis.web.app import Application
from chassis.web.dependencies import Provided, provide, provided
from chassis.web.routing import DirectRoute, StrictRoute


class Clock:
    time = "noon"


class Other:
    """Nothing that a route needs."""


@pytest.fixture
def app() -> FastAPI:
    router = APIRouter(route_class=StrictRoute)

    @router.get("/injected")
    async def injected(clock: Annotated[Clock, Depends(provided(Clock))]) -> str:
        return clock.time

    async def direct(request: Request, provided: Provided) -> Response:
        return Response(f'"{provided[Clock].time}"')

    app = Application()
    app.routes.extend(router.routes)
    app.routes.append(DirectRoute("/direct", injected, handler=direct, methods=["GET"]))
    return app


class TestProvided:
    @pytest.mark.parametrize("path", ["/injected", "/direct"])
    async def test_a_route_gets_the_object_that_was_provided_last(
        self, app: FastAPI, path: str
    ) -> None:
        later = Clock()
        later.time = "midnight"
        provide(app, Clock())
        provide(app, later)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://x"
        ) as http:
            assert (await http.get(path)).json() == "midnight"

    @pytest.mark.parametrize("path", ["/injected", "/direct"])
    async def test_an_object_that_is_not_provided_is_an_error(
        self, app: FastAPI, path: str
    ) -> None:
        provide(app, Other())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://x"
        ) as http:
            assert (await http.get(path)).status_code == 500
