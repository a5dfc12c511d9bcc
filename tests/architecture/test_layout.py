"""Closed lists of files: a new one is a visible edit here. And every file is one thought."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from apps import SERVICES
from tests.architecture.code import ROOT, Module, modules

SERVICE = "__init__ api main models schemas subscribers use_cases"
FILES = {
    "events": "__init__ base billing contracts money notifications orders users",
    "chassis/messaging": (
        "__init__ administration committer crash dead faults inbox nodes outbox parking publisher relay statements"
        " topology transaction wire"
    ),
    "apps": "__init__",
    "ops/audit": (
        "__init__ auditor broker copies databases digests facts findings gathering invariants letters money orders"
        " report rights suspects travel"
    ),
    "chassis": (
        "__init__ arguments asyncapi auth commands database documents examples factory gauges idempotency messages"
        " openapi operations pages problems projections retention schemas settings strict supervisor telemetry"
    ),
    "apps/billing": f"{SERVICE} problems",
    "apps/notifications": f"{SERVICE} bell dispatcher gauges leases rendering",
    "apps/notifications/channels": "__init__ email mime smtp smtp_session",
    "apps/orders": f"{SERVICE} admission gauges problems watch",
    "apps/users": f"{SERVICE} limits passwords problems tokens upkeep",
}  # fmt: skip
FOLDERS = {
    "events": {"bus", "published"},
    "chassis/messaging": set(),
    "apps": {"audit", "billing", "cli", "common", "notifications", "orders", "users"},
    "ops/audit": set(),
    "chassis": {"migrations", "templates"},
    "apps/billing": {"migrations"},
    "apps/notifications": {"channels", "migrations", "templates"},
    "apps/notifications/channels": set(),
    "apps/orders": {"migrations"},
    "apps/users": {"migrations"},
}
LONGEST_FILE = 300
LONGEST_FUNCTION = 45
"""Lines at the very most; most files stay below 250 and most functions below 25."""


@pytest.mark.parametrize("folder", FILES)
def test_a_folder_holds_what_is_listed(folder: str) -> None:
    here = ROOT / folder
    assert {path.stem for path in here.glob("*.py")} == set(FILES[folder].split())
    assert _folders(here) == FOLDERS[folder]


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_files(service: str) -> None:
    here = ROOT / "apps" / service
    assert {path.stem for path in here.glob("*.py")} >= set(SERVICE.split())
    assert (here / "README.md").exists()
    assert list((here / "migrations").glob("0001_*.py"))


def test_infra_has_no_python_that_a_service_could_import() -> None:
    assert list((ROOT / "infra").rglob("*.py")) == []


def too_long(code: Iterable[Module]) -> list[str]:
    """Files and functions that do not fit a screen; docstrings are not counted for functions."""
    found = [module.path for module in code if module.lines() > LONGEST_FILE]
    for module in code:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and (body[-1].end_lineno or 0) - body[0].lineno >= LONGEST_FUNCTION:
                    found.append(f"{module.path}: {node.name}")
    return found


def test_a_file_is_one_thought_and_a_function_fits_a_screen() -> None:
    assert too_long(modules("events", "apps")) == []


def test_what_is_too_long_is_found() -> None:
    line = "    pass\n"
    assert not too_long([Module.of("x.py", "def f():\n" + line * LONGEST_FUNCTION)])
    assert too_long([Module.of("x.py", "def f():\n" + line * (LONGEST_FUNCTION + 1))])
    assert too_long([Module.of("x.py", "pass\n" * (LONGEST_FILE + 1))])


def _folders(here: Path) -> set[str]:
    return {path.name for path in here.iterdir() if path.is_dir() and path.name != "__pycache__"}
