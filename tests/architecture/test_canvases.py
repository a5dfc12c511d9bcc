"""A service's canvas, its README, agrees with the code: routes, events in, events out, tables."""

import importlib
import re
from collections.abc import Iterator
from types import ModuleType

import pytest
from fastapi.routing import APIRoute

from apps import SERVICES
from events.contracts import language
from ops.subscriptions import SUBSCRIPTIONS
from tests.architecture.code import ROOT, modules
from tests.architecture.pages import section, table
from tests.support.tables import tables_of

TITLES = ["API", "Events in", "Events out", "Tables", "Promises"]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def canvas(service: str) -> str:
    return (ROOT / "apps" / service / "README.md").read_text()


def module(service: str, name: str) -> ModuleType:
    return importlib.import_module(f"apps.{service}.{name}")


def first_column(canvas: str, title: str) -> list[str]:
    return [row[0] for row in table(section(canvas, title))]


class TestCanvas:
    def test_it_is_one_page_with_the_same_sections(self, canvas: str) -> None:
        assert re.findall(r"^## (.+)$", canvas, flags=re.MULTILINE) == TITLES
        assert len(canvas.splitlines()) <= 80
        assert len(re.findall(r"^- ", section(canvas, "Promises"), flags=re.MULTILINE)) >= 3

    def test_its_routes_are_those_of_the_router(self, service: str, canvas: str) -> None:
        routes = module(service, "api").router.routes
        assert all(isinstance(route, APIRoute) for route in routes)
        code = [f"{method} {route.path}" for route in routes for method in route.methods - {"HEAD"}]
        assert sorted(first_column(canvas, "API")) == sorted(code)

    def test_its_events_in_are_the_subscriptions(self, service: str, canvas: str) -> None:
        declared = [one.event.__name__ for one in module(service, "consumers").SUBSCRIPTIONS]
        assert declared == [kind.__name__ for kind in SUBSCRIPTIONS[service]]
        assert sorted(first_column(canvas, "Events in")) == sorted(declared)

    def test_its_events_out_are_those_of_its_exchange_and_all_are_published(
        self, service: str, canvas: str
    ) -> None:
        kinds = {kind.__name__: kind for kind in language().values()}
        made = {
            name
            for source in modules(f"apps/{service}")
            for name in kinds
            for before, _ in source.calls(name)
            if not before
        }
        assert made == {name for name, kind in kinds.items() if kind.exchange == service}
        assert sorted(first_column(canvas, "Events out")) == sorted(made)

    def test_its_tables_are_those_of_the_models_and_the_migrations(
        self, service: str, canvas: str
    ) -> None:
        assert sorted(first_column(canvas, "Tables")) == sorted(tables_of(service))
        assert set(created_by_migrations(service)) == tables_of(service).keys()


def created_by_migrations(service: str) -> Iterator[str]:
    files = [
        *(ROOT / "apps" / service / "migrations").glob("*.py"),
        *(ROOT / "chassis/database/migrations").glob("chassis_*.py"),
    ]
    for path in files:
        yield from re.findall(r"\bCREATE TABLE (\w+) \(", path.read_text())


def test_every_service_has_a_canvas_and_subscriptions() -> None:
    assert set(SUBSCRIPTIONS) == set(SERVICES)
    assert {path.parent.name for path in (ROOT / "apps").glob("*/README.md")} == set(SERVICES)
