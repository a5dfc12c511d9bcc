"""The checks and error responses of strict routes, on a small service of the test's own."""

from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import APIRouter
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from chassis.database.errors import CommitUnknownError
from chassis.database.group_commit import OverloadedError, UnavailableError
from chassis.runtime.service import create_app
from tests.unit.chassis.web.conftest import counted, faults, is_problem, touch


class TestQueryPathAndMethod:
    async def test_a_query_is_read(self, http: httpx.AsyncClient) -> None:
        answer = await http.get("/thing?limit=3&kindOf=%C3%BC")
        assert answer.json() == {"cursor": None, "limit": 3, "kindOf": "\u00fc"}

    @pytest.mark.parametrize(
        "query",
        [
            "nope=1",
            "kind_of=x",
            "limit=3&limit=3",
            "limit=0",
            "limit=201",
            "limit=",
            "limit=1.5",
            "limit=true",
            "limit=1e1",
            "limit=" + "9" * 5000,
            "kindOf=%00",
            "%00=1",
            "cursor=" + "x" * 65,
            "=",
            "LIMIT=3",
            "limit[]=3",
        ],
    )
    async def test_an_invalid_query_is_refused(self, http: httpx.AsyncClient, query: str) -> None:
        is_problem(await http.get(f"/thing?{query}"), 422, "invalid_request")

    @pytest.mark.parametrize(
        "path",
        ["/live", "/ready", "/metrics", "/docs", "/openapi.json", "/asyncapi", "/asyncapi.json"],
    )
    async def test_a_route_without_a_query_refuses_one(
        self, http: httpx.AsyncClient, path: str
    ) -> None:
        is_problem(await http.get(f"{path}?x=1"), 422, "invalid_request")
        is_problem(await http.get(f"{path}?x"), 422, "invalid_request")

    @pytest.mark.parametrize(
        "id", ["1", "x" * 36, "%00", "%ff", "00000000-0000-0000-0000-00000000000g"]
    )
    async def test_a_malformed_id_is_refused(self, http: httpx.AsyncClient, id: str) -> None:
        is_problem(await http.get(f"/thing/{id}"), 422, "invalid_request")

    @pytest.mark.parametrize(
        "path", ["/", "/nope", "/thing/", "/thing/a/b/c", "//", "/%00", "/live/"]
    )
    async def test_an_unknown_path_is_not_found(self, http: httpx.AsyncClient, path: str) -> None:
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            is_problem(await http.request(method, f"http://things{path}"), 404, "not_found")

    async def test_an_unsupported_method_is_refused_with_the_allowed_ones(
        self,
        http: httpx.AsyncClient,
    ) -> None:
        methods = {
            "/thing/make": {"POST"},  # and not those of a thing with the id "make"
            f"/thing/{UUID(int=1)}": {"GET", "HEAD", "PATCH"},
            f"/thing/{UUID(int=1)}/touch": {"POST"},
            f"/thing/{UUID(int=1)}/events": {"GET"},
            "/live": {"GET", "HEAD"},
            "/openapi.json": {"GET", "HEAD"},
        }
        for path, allowed in methods.items():
            for method in ("DELETE", "OPTIONS", "TRACE", "QUERY"):
                answer = await http.request(method, path)
                is_problem(answer, 405, "method_not_allowed")
                assert set(answer.headers["allow"].split(", ")) == allowed, path

    async def test_head_is_handled_like_get(self, http: httpx.AsyncClient) -> None:
        assert (await http.head("/thing?limit=3")).status_code == 200
        assert (await http.head("/thing/x")).status_code == 422
        assert (await http.head("/nope")).status_code == 404
        assert (await http.head(f"/thing/{UUID(int=1)}/touch")).status_code == 405
        assert (await http.head(f"/thing/{UUID(int=1)}/events")).status_code == 405


class TestResponse:
    @pytest.mark.parametrize("id", ["flow-1", "a" * 128, "A.b_c:d/e-f"])
    async def test_a_correlation_id_is_kept(self, http: httpx.AsyncClient, id: str) -> None:
        answer = await http.get("/live", headers={"X-Correlation-Id": id})
        assert answer.headers["x-correlation-id"] == id

    @pytest.mark.parametrize("id", [b"", b"a" * 129, b"\xff", b"a b", b"-a", b"a;b", b"<x>", b'"'])
    async def test_a_malformed_correlation_id_is_replaced(
        self, http: httpx.AsyncClient, id: bytes
    ) -> None:
        answer = await http.get("/live", headers={b"X-Correlation-Id": id})
        assert answer.status_code == 200
        assert UUID(answer.headers["x-correlation-id"]).version == 7

    async def test_an_unhandled_error_is_a_problem_with_correlation_id_and_is_counted(
        self,
        http: httpx.AsyncClient,
    ) -> None:
        before = counted("500")
        faults.append(ZeroDivisionError("secret"))
        answer = await http.put("/thing/fault", headers={"X-Correlation-Id": "flow-1"})
        assert answer.headers["x-correlation-id"] == "flow-1"
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text
        assert "ZeroDivisionError" not in answer.text
        assert counted("500") == before + 1

    @pytest.mark.parametrize(
        "fault",
        [
            OverloadedError("work"),
            UnavailableError("work"),
            CommitUnknownError("lost"),
            ConnectionRefusedError(),
            TimeoutError(),
            asyncpg.CannotConnectNowError("starting up"),
            asyncpg.AdminShutdownError("bye"),
            asyncpg.TooManyConnectionsError("full"),
            PoolTimeoutError("QueuePool limit"),
        ],
    )
    async def test_an_unavailable_server_is_reported_as_503(
        self, http: httpx.AsyncClient, fault: Exception
    ) -> None:
        faults.append(fault)
        answer = await http.put("/thing/fault")
        is_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"

    async def test_an_unavailable_server_is_found_in_the_cause_of_a_sqlalchemy_error(
        self,
        http: httpx.AsyncClient,
    ) -> None:
        wrapped = OperationalError("SELECT 1", {}, Exception())
        wrapped.__cause__ = asyncpg.ConnectionDoesNotExistError("gone")
        faults.append(wrapped)
        is_problem(await http.put("/thing/fault"), 503, "unavailable")
        bad = DBAPIError("SELECT", {}, Exception())
        bad.__cause__ = asyncpg.UndefinedTableError("no such table")
        faults.append(bad)
        is_problem(await http.put("/thing/fault"), 500, "internal_error")

    async def test_the_instance_of_a_problem_is_a_uri_reference(
        self, http: httpx.AsyncClient
    ) -> None:
        document = is_problem(await http.get("/n\u00f6pe%20%22x%22"), 404, "not_found")
        assert document["instance"] == "/n%C3%B6pe%20%22x%22"

    def test_create_app_refuses_a_route_that_is_not_strict(self) -> None:
        lax = APIRouter(prefix="/lax", tags=["lax"])
        lax.add_api_route("/x", touch)
        with pytest.raises(TypeError, match="StrictRoute"):
            create_app("lax", description="", router=lax, subscriptions=())
