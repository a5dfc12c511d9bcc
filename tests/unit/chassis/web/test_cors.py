"""Browsers may call a service from pages of the origins that CHORUS_CORS_ORIGINS names, and of no other."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import APIRouter

from chassis.runtime.service import create_app
from chassis.runtime.settings import settings
from chassis.web.routing import StrictRoute

SHOP = "https://shop.example"


@pytest.fixture
def origins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CHORUS_CORS_ORIGINS", request.param)
    settings.cache_clear()
    yield
    settings.cache_clear()


def client() -> httpx.AsyncClient:
    router = APIRouter(prefix="/thing", route_class=StrictRoute)
    app = create_app("things", description="", router=router, subscriptions=())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://things.test")


PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, idempotency-key, prefer",
}


@pytest.mark.usefixtures("origins")
class TestCors:
    @pytest.mark.parametrize("origins", [SHOP, f"https://other.example, {SHOP}"], indirect=True)
    async def test_a_page_of_a_named_origin_may_call(self) -> None:
        async with client() as http:
            asked = await http.options("/live", headers={"Origin": SHOP} | PREFLIGHT)
            answer = await http.get("/live", headers={"Origin": SHOP})
        assert asked.status_code == 200
        assert "idempotency-key" in asked.headers["Access-Control-Allow-Headers"]
        for response in (asked, answer):
            assert response.headers["Access-Control-Allow-Origin"] == SHOP
        assert "X-Correlation-Id" in answer.headers["Access-Control-Expose-Headers"]

    @pytest.mark.parametrize("origins", ["", "https://other.example"], indirect=True)
    async def test_a_page_of_another_origin_may_not(self) -> None:
        async with client() as http:
            asked = await http.options("/live", headers={"Origin": SHOP} | PREFLIGHT)
            answer = await http.get("/live", headers={"Origin": SHOP})
        assert asked.status_code in {400, 405}
        for response in (asked, answer):
            assert "Access-Control-Allow-Origin" not in response.headers
