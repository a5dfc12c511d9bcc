"""Objects of a service reach its routes by type."""

from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from chassis.web.dependencies import provide, provided, resolve


class Clock:
    time = "noon"


class Other:
    """Nothing that anybody provides."""


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()

    @app.get("/injected")
    async def injected(clock: Annotated[Clock, Depends(provided(Clock))]) -> str:
        return clock.time

    @app.get("/resolved")
    async def resolved(request: Request) -> str:
        return resolve(request, Clock).time

    @app.get("/missing")
    async def missing(request: Request) -> None:
        resolve(request, Other)

    return app


class TestProvided:
    @pytest.mark.parametrize("path", ["/injected", "/resolved"])
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

    async def test_an_object_that_is_not_provided_is_an_error(self, app: FastAPI) -> None:
        provide(app, Clock())
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://x"
        ) as http:
            with pytest.raises(KeyError):
                await http.get("/missing")
