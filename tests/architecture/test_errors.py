"""Errors are types with a docstring; problems also have a status and a stable slug."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Final

import pytest

import apps
import chassis
import events
import ops
import tools
from chassis.web.problems import Problem

ROOMS: Final = ("apps", "chassis", "events", "ops", "tools")


def _ours(base: type[BaseException]) -> Iterator[type[BaseException]]:
    """Our own subclasses of `base`, those of other packages' subclasses included."""
    for kind in base.__subclasses__():
        if kind.__module__.partition(".")[0] in ROOMS:
            yield kind
        yield from _ours(kind)


@pytest.fixture(scope="module", autouse=True)
def all_modules_are_imported() -> None:
    for package in (apps, chassis, events, ops, tools):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__") and ".migrations" not in module.name:
                importlib.import_module(module.name)


def test_every_error_has_a_docstring() -> None:
    errors = {*_ours(Exception)}
    assert len(errors) > 20
    assert [kind for kind in errors if not kind.__dict__.get("__doc__")] == []


def test_every_problem_has_a_title_a_status_and_a_slug() -> None:
    for kind in {*_ours(Problem)}:
        assert issubclass(kind, Problem)
        title = (inspect.getdoc(kind) or "").split("\n")[0]
        assert title.endswith("."), kind
        assert 400 <= kind.status < 500 or kind.status in (500, 503), kind
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.reason or ""), kind


def test_a_slug_has_one_status() -> None:
    meanings: dict[str | None, set[int]] = {}
    for kind in {*_ours(Problem)}:
        meanings.setdefault(kind.reason, set()).add(kind.status)  # type: ignore[attr-defined]
    assert [slug for slug, statuses in meanings.items() if len(statuses) > 1] == []
