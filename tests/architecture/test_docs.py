"""Pages that can be compared with the code are compared with it."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from pydantic_settings import BaseSettings

from apps import SERVICES
from apps.notifications import channels
from chassis.messaging.topology import mermaid
from chassis.runtime.settings import Settings
from ops.subscriptions import TOPOLOGY
from tests.architecture.code import ROOT, defined_names
from tests.architecture.pages import anchors, function_links, links, section, table

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "apps/*/README.md", "infra/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)
for module in iter_modules(channels.__path__, f"{channels.__name__}."):
    import_module(module.name)
CHANNELS = [
    settings
    for settings in BaseSettings.__subclasses__()
    if settings.__module__.startswith(channels.__name__)
]
"""The settings of channels, each in its own module."""
VARIABLES_IN = (
    "compose.yaml",
    "Makefile",
    "apps",
    "events",
    "infra",
    "tests/support",
    "tests/conftest.py",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_linked_name_is_defined_in_the_linked_file(page: Path) -> None:
    """As in [`place_orders`](../apps/orders/use_cases.py)."""
    for name, file in function_links(page, page.read_text()):
        assert name in defined_names(file), f"{name} is not defined in {file}"


def test_the_glossary_is_short() -> None:
    assert len((ROOT / "docs/glossary.md").read_text().splitlines()) <= 40


def test_the_picture_of_the_topology_is_the_topology() -> None:
    assert mermaid(TOPOLOGY) in (ROOT / "docs/topology.md").read_text()


class TestSettings:
    page = (ROOT / "docs/settings.md").read_text()

    def test_the_table_is_the_code_s(self) -> None:
        rows = table(section(self.page, "Services and the `chorus` command"))
        assert [row[0] for row in rows[:2]] == [
            "CHORUS_DATABASE_URL_<SERVICE>",
            "CHORUS_AMQP_URL_<SERVICE>",
        ]
        assert rows[2:] == _rows(Settings)

    def test_the_table_of_channels_is_the_code_s(self) -> None:
        rows = table(section(self.page, "Channels of notifications"))
        assert rows == [row for channel in CHANNELS for row in _rows(channel)]

    def test_every_variable_is_listed_and_every_listed_one_is_used(self) -> None:
        listed = {
            row[0] for title in _titles(self.page) for row in table(section(self.page, title))
        }
        used = {name for name in _variables() if not name.endswith("_")}
        assert used - _spelled_out(listed) == set()
        assert _spelled_out(listed) - used - _made_of_parts() == set()


def _rows(settings: type[BaseSettings]) -> list[list[str]]:
    return [
        [f"CHORUS_{name.upper()}", "" if field.default is None else str(field.default), field.description or ""]
        for name, field in settings.model_fields.items()
    ]  # fmt: skip


def _titles(page: str) -> list[str]:
    return re.findall(r"^## (.+)$", page, flags=re.MULTILINE)


def _variables() -> set[str]:
    found: set[str] = set()
    for name in VARIABLES_IN:
        path = ROOT / name
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.suffix in {".py", ".yaml", ".yml", ".sh", ".toml", ""} and file.is_file():
                found |= set(re.findall(r"\bCHORUS_[A-Z_]*[A-Z_]", file.read_text()))
    return found


def _spelled_out(names: set[str]) -> set[str]:
    """`CHORUS_<SERVICE>_PORT` as the four names that it stands for."""
    return {name.replace("<SERVICE>", service.upper()) for name in names for service in SERVICES}


def _made_of_parts() -> set[str]:
    """Names that the code puts together: from the fields of settings."""
    every: list[type[BaseSettings]] = [Settings, *CHANNELS]
    return {row[0] for settings in every for row in _rows(settings)}


@pytest.mark.parametrize(
    "record", sorted((ROOT / "docs/adr").glob("0*.md")), ids=lambda record: record.stem
)
def test_a_decision_record_is_short_and_listed(record: Path) -> None:
    assert len(record.read_text().splitlines()) < 60
    assert f"({record.name})" in (ROOT / "docs/adr/README.md").read_text()
