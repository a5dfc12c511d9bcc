"""docs/new-service.md: the service that it shows can be built, and has as many lines as it states."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.architecture.code import ROOT

PAGE: Final = (ROOT / "docs/new-service.md").read_text()
LIMIT: Final = 80
FOLDERS: Final = ("events", "chassis", "apps", "ops", "tools", "bench", "tests", "docs")
CHECKED: Final = ("apps", "tests/integration", "tests/unit", "tests/contracts")
_BLOCK: Final = re.compile(
    r"^\*\*`(?P<path>[^`]+)`\*\*$|^(?P<fence>`{3,4})(?P<kind>\w+)\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


def blocks() -> Iterator[tuple[str, str, str]]:
    """The page's blocks of files and of edits: path, kind, text."""
    path = ""
    for found in _BLOCK.finditer(PAGE):
        path = found["path"] or path
        if found["kind"] in {"python", "markdown", "diff"}:
            yield path, found["kind"], found["text"]


FILES: Final = {path: text for path, kind, text in blocks() if kind != "diff"}
EDITS: Final = [(path, text) for path, kind, text in blocks() if kind == "diff"]


def sides(edit: str) -> tuple[str, str]:
    """What stands there before an edit, and after it."""
    lines = edit.removesuffix("\n").split("\n")
    before = [line[1:] for line in lines if line[0] in " -"]
    after = [line[1:] for line in lines if line[0] in " +"]
    return "\n".join(before), "\n".join(after)


def lines_of_code(source: str) -> int:
    """Lines that are neither blank nor a docstring."""
    prose: set[int] = set()
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    written = {number for number, line in enumerate(source.split("\n"), 1) if line.strip()}
    return len(written - prose)


def service_files() -> dict[str, str]:
    return {
        path: text
        for path, text in FILES.items()
        if path.startswith("apps/") and path.endswith(".py")
    }


def added(path_is_code: bool) -> int:
    """Lines that the edits outside of the tests add or change: in Python and its configuration, or in compose.yaml."""
    return sum(
        line[:1] == "+" and len(line) > 1
        for path, edit in EDITS
        if not path.startswith(("tests/", "docs/")) and (path != "compose.yaml") is path_is_code
        for line in edit.split("\n")
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the service, built by following the page."""
    if (ROOT / "apps/loyalty").exists():
        pytest.skip("there is a service of this name already")
    root = tmp_path_factory.mktemp("chorus")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "compose.yaml"):
        shutil.copy(ROOT / name, root / name)
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path, edit in EDITS:
        before, after = sides(edit)
        source = (root / path).read_text()
        assert source.count(before) == 1, f"{path} has no single place for:\n{edit}"
        (root / path).write_text(source.replace(before, after))
    return root


def run(built: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(built), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=built, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_the_files_that_every_service_has() -> None:
    own = {Path(path).name for path in FILES if path.startswith("apps/loyalty/")}
    shared = {path.name for path in (ROOT / "apps/orders").glob("*.py")} - {
        "admission.py",
        "late_orders.py",
        "recovery.py",
        "updates.py",
    }
    assert own == shared | {"README.md", "0001_members.py"}


def test_it_takes_less_than_80_lines_as_the_page_says() -> None:
    code = sum(map(lines_of_code, service_files().values()))
    written = sum(
        bool(line.strip()) for text in service_files().values() for line in text.split("\n")
    )
    page = " ".join(PAGE.split())
    assert (
        f"its Python files are {sum(t.count(chr(10)) for t in service_files().values())} lines"
        in page
    )
    assert f"{code} lines of code ({written} with docstrings" in page
    assert f"{added(path_is_code=True)} lines elsewhere" in page
    assert f"{added(path_is_code=False)} in `compose.yaml`" in page
    assert written + added(path_is_code=True) < LIMIT
    assert code + added(path_is_code=True) + added(path_is_code=False) < LIMIT


def test_the_service_can_be_built_and_has_its_queue(built: Path) -> None:
    output = run(
        built,
        sys.executable,
        "-c",
        "from apps.loyalty.main import app\n"
        "from ops.subscriptions import TOPOLOGY\n"
        "assert 'loyalty.order-paid' in {queue.name for queue in TOPOLOGY.queues}\n"
        "print(*app.openapi()['paths'])\n",
    )
    assert "/loyalty/{userId}" in output


def test_it_keeps_the_rules(built: Path) -> None:
    """Its style, its imports, its canvas; types are left to `make check`, which takes longer."""
    tools = Path(sys.executable).parent
    run(
        built,
        str(tools / "ruff"),
        "check",
        "apps/loyalty",
        "tests/integration/apps/test_loyalty.py",
    )
    run(built, str(tools / "ruff"), "format", "--check", *CHECKED)
    run(built, str(tools / "lint-imports"), "--no-cache")
    run(built, sys.executable, "-m", "tools.documents", "write")
    about_it = (
        "loyalty or exchange or table_of_events or folder or consumers or use_case or same_files"
    )
    paths = [
        "test_layout.py",
        "test_canvases.py",
        "test_use_cases.py",
        "test_docs_commands.py::test_the_table_of_events_names_publishers_and_consumers",
        "../contracts/test_consumers.py",
        "../unit/chassis/messaging/test_topology.py",
    ]
    rules = [f"tests/architecture/{name}" for name in paths]
    pytest_quietly = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", about_it)
    run(built, sys.executable, *pytest_quietly, *rules)
