"""Closed lists of files, one per room: a new file is an edit here. Files and functions are short."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from apps import SERVICES
from tests.architecture.code import ROOT, Module, modules

SERVICE: Final = "__init__ api consumers main models schemas use_cases"
"""The files of every service, beside README.md and migrations/."""

FILES: Final = {
    "events": "__init__ base billing contracts money notifications orders users",
    "chassis": "__init__ crash_points",
    "chassis/messaging": (
        "__init__ addresses broker consumer content_headers contradictions dead_letters differences errors"
        " failure_log message outbox private_names publisher recovery relay retries snapshot topology"
    ),
    "chassis/database": "__init__ addresses errors group_commit pool tables transaction",
    "chassis/web": (
        "__init__ app auth commands context dependencies documents operators pagination problems"
        " protocol routing schemas"
    ),
    "chassis/runtime": (
        "__init__ backlog health logs retention service settings supervisor topology_watch"
    ),
    "apps": "__init__",
    "apps/users": f"{SERVICE} keys limits operator password_rules passwords recovery sessions tokens",
    "apps/billing": f"{SERVICE} recovery",
    "apps/orders": f"{SERVICE} admission late_orders recovery updates",
    "apps/notifications": f"{SERVICE} corrections dispatcher gauges recovery rendering",
    "apps/notifications/channels": "__init__ email mail_server replies",
    "ops": (
        "__init__ __main__ console dead dead_letters demo_passwords differences event_logs failures journal main"
        " management migrate projections rebuild rebuilder recovery repair republish serve status subscriptions"
    ),
    "ops/audit": (
        "__init__ access auditor broker command databases delivery digests findings ledger"
        " report rules services"
    ),
    "ops/trace": "__init__ anchors asking command facts pages reading reasons story",
    "tools": ("__init__ children commands console docker local mail_catcher story system up"),
    "tools/documents": "__init__ __main__ asyncapi messages openapi schemas",
    "tools/servers": "__init__ folders install ports postgres rabbitmq server",
}
FOLDERS: Final = {
    "events": "published",
    "chassis": "database messaging runtime web",
    "chassis/database": "migrations",
    "chassis/web": "static",
    "apps": " ".join(SERVICES),
    "apps/users": "documents migrations",
    "apps/billing": "documents migrations",
    "apps/orders": "documents migrations",
    "apps/notifications": "channels documents migrations templates",
    "ops": "audit trace",
    "tools": "documents pages servers",
}
"""The folders inside; none where a room is not named."""

LONGEST_FILE: Final = 300
LONGEST_FUNCTION: Final = 45
"""Lines; most files have less than 250 and most functions less than 25."""


class TestRooms:
    @pytest.mark.parametrize("folder", FILES)
    def test_a_folder_holds_what_is_listed(self, folder: str) -> None:
        here = ROOT / folder
        assert {path.stem for path in here.glob("*.py")} == set(FILES[folder].split())
        assert _folders(here) == set(FOLDERS.get(folder, "").split())

    @pytest.mark.parametrize("service", SERVICES)
    def test_every_service_has_the_same_files(self, service: str) -> None:
        here = ROOT / "apps" / service
        assert {path.stem for path in here.glob("*.py")} >= set(SERVICE.split())
        assert (here / "README.md").exists()
        assert list((here / "migrations").glob("0001_*.py"))

    def test_infra_has_no_python_that_a_service_could_import(self) -> None:
        assert list((ROOT / "infra").rglob("*.py")) == []


def too_long(code: Iterable[Module]) -> list[str]:
    """Files and functions above the limits; docstrings of functions are not counted."""
    found = [module.path for module in code if module.lines() > LONGEST_FILE]
    for module in code:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body and (body[-1].end_lineno or 0) - body[0].lineno >= LONGEST_FUNCTION:
                    found.append(f"{module.path}: {node.name}")
    return found


class TestSizes:
    def test_files_and_functions_are_within_the_limits(self) -> None:
        assert too_long(modules("events", "chassis", "apps", "ops", "tools")) == []

    def test_what_is_too_long_is_found(self) -> None:
        line = "    pass\n"
        assert not too_long([Module.of("x.py", "def f():\n" + line * LONGEST_FUNCTION)])
        assert too_long([Module.of("x.py", "def f():\n" + line * (LONGEST_FUNCTION + 1))])
        assert too_long([Module.of("x.py", "pass\n" * (LONGEST_FILE + 1))])


def _folders(here: Path) -> set[str]:
    return {path.name for path in here.iterdir() if path.is_dir() and path.name != "__pycache__"}
