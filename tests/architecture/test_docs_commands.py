"""What the pages tell somebody to type, to read or to look for is there: commands, figures, log lines, tests."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest
import typer
from typer.testing import CliRunner

from apps import SERVICES
from events.contracts import language
from ops.main import cli
from ops.subscriptions import SUBSCRIPTIONS
from tests.architecture.code import ROOT, modules
from tests.architecture.pages import links, table

PAGES: Final = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "apps").glob("*/README.md")]
)
RECORDS: Final = sorted((ROOT / "docs/adr").glob("0*.md"))
PRODUCT: Final = ("events", "chassis", "apps", "ops")
NOT_OURS: Final = {"chorus_queue"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


pages: Final = pytest.mark.parametrize("page", PAGES, ids=name_of)
records: Final = pytest.mark.parametrize("record", RECORDS, ids=name_of)


def text_of(page: Path) -> str:
    """A page, without the changelog's section of old names."""
    return re.sub(
        r"^### Renamed\n.*?(?=^##|\Z)", "", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )


def code_in(page: Path) -> Iterator[str]:
    """Everything that a page sets as code: in backquotes, and line by line in blocks."""
    text = text_of(page)
    for block in re.findall(r"^```+\w*\n(.*?)^```+$", text, flags=re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    without_blocks = re.sub(r"^```+.*?^```+$", "", text, flags=re.MULTILINE | re.DOTALL)
    for paragraph in without_blocks.split("\n\n"):
        # What stands in backquotes may go on in the next line.
        yield from re.findall(r"`([^`]+)`", " ".join(paragraph.split()))


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """How a page calls a program: its arguments."""
    for code in code_in(page):
        for line in re.split(r"\s(?:&&|\|)\s", code.split("  #")[0]):
            words = line.removeprefix("$ ").removeprefix("@").split()
            if words and words[0].rpartition("/")[2] == program:
                yield words[1:]


def commands_in_containers(page: Path) -> Iterator[list[str]]:
    """How a page calls `chorus` in a container: what stands behind the service's name, if anything does."""
    for words in commands(page, "docker"):
        if words[:3] == ["compose", "run", "--rm"] and len(words) > 4:
            yield words[4:]


@pages
def test_make_knows_every_target_that_a_page_names(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for arguments in commands(page, "make"):
        assert {word for word in arguments[:1] if "=" not in word} <= targets, arguments


@pages
def test_chorus_knows_every_command_and_option_that_a_page_names(page: Path) -> None:
    known = {name: command.params for name, command in _commands().items()}
    for arguments in [*commands(page, "chorus"), *commands_in_containers(page)]:
        command, *rest = arguments or ["serve"]
        if rest and f"{command} {rest[0]}" in known:
            command = f"{command} {rest.pop(0)}"
        assert command in known, command
        options = {option for parameter in known[command] for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= options, rest
        if command == "serve":
            assert set(rest[:1]) <= {*SERVICES, "SERVICE", "loyalty"}, rest


def _commands() -> dict[str, typer.core.TyperCommand]:
    group = typer.main.get_command(cli)
    assert isinstance(group, typer.core.TyperGroup)
    found: dict[str, typer.core.TyperCommand] = dict(group.commands)  # type: ignore[arg-type]
    for name, inner in group.commands.items():
        if isinstance(inner, typer.core.TyperGroup):
            found |= {f"{name} {below}": one for below, one in inner.commands.items()}  # type: ignore[misc]
    return found


@pages
def test_every_variable_that_a_page_names_is_a_setting(page: Path) -> None:
    settings = (ROOT / "docs/settings.md").read_text()
    listed = set(re.findall(r"CHORUS_[A-Z_]*(?:<SERVICE>)?[A-Z_]*", settings))
    spelled = {n.replace("<SERVICE>", s.upper()) for n in listed for s in (*SERVICES, "LOYALTY")}
    assert set(re.findall(r"\bCHORUS_[A-Z_]*[A-Z]", page.read_text())) <= spelled | listed | {
        name.partition("<")[0].rstrip("_") for name in listed
    }


@pages
def test_every_figure_that_a_page_names_is_one_of_ours(page: Path) -> None:
    ours = {text for module in modules(*PRODUCT) for text in module.texts()}
    for name in re.findall(r"\bchorus_[a-z_]+[a-z]", text_of(page)):
        assert name in ours | NOT_OURS, name


def test_every_figure_is_in_the_runbook() -> None:
    page = (ROOT / "docs/runbook.md").read_text()
    for module in modules(*PRODUCT):
        for _, call in module.calls("Counter", "Gauge", "Histogram"):
            if call.args and isinstance(call.args[0], ast.Constant):
                assert f"`{call.args[0].value!s}" in page, module.path


def test_every_log_line_that_the_runbook_explains_is_written_somewhere() -> None:
    written = {text for module in modules(*PRODUCT) for text in module.texts()}
    section = (ROOT / "docs/runbook.md").read_text().split("\n## Logs")[1].split("\n## ")[0]
    with_reason = re.findall(r"`([a-z]+\.[a-z_]+)`", section)
    assert len(with_reason) > 5
    assert set(with_reason) <= written


@cache
def names_of_tests() -> set[str]:
    """The functions of all test files, of modules and of classes."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {
        node.name
        for module in modules("tests")
        for node in ast.walk(module.tree)
        if isinstance(node, functions)
    }


@pages
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", page.read_text()))
    assert named <= names_of_tests(), named - names_of_tests()


@records
def test_a_decision_record_names_its_code_and_the_test_that_holds_it(record: Path) -> None:
    page = record.read_text()
    code, tests = page.split("\n## Code")[1].split("\n## Tests")
    targets = {part: {(record.parent / link).resolve() for link in links(part)} for part in (code, tests)}  # fmt: skip
    assert any(path.suffix == ".py" and path.exists() for path in targets[code])
    assert any(path.name.startswith("test_") and path.exists() for path in targets[tests])


@records
def test_a_decision_record_names_things_that_stand_where_it_says(record: Path) -> None:
    """`NAMES` beside a link to a file of ours are in that file."""
    code = record.read_text().split("\n## Code")[1].split("\n## Tests")[0]
    for line in re.split(r"\n- ", code):
        files = [(record.parent / link).resolve() for link in links(line) if link.endswith(".py")]
        sources = "".join(file.read_text() for file in files)
        for name in re.findall(r"`(\w+)(?:\(\))?`", line) if files else []:
            assert name in sources, f"{name} is not in {files}"


def test_the_page_of_the_topology_is_what_the_command_writes(tmp_path: Path) -> None:
    page = tmp_path / "topology.md"
    assert CliRunner().invoke(cli, ["topology", "--write", str(page)]).exit_code == 0
    assert (ROOT / "docs/topology.md").read_text() == page.read_text()


@pages
def test_a_page_names_no_machine_and_no_registry(page: Path) -> None:
    """What is in a page holds for every reader."""
    text = page.read_text()
    assert not re.search(r"/(?:work|root|home|var/tmp)/", text)
    assert not re.search(r"\b(?:docker\.io|ghcr\.io|quay\.io|pypi\.org|pythonhosted)\b", text)


def test_the_table_of_events_names_publishers_and_consumers() -> None:
    section = (
        (ROOT / "docs/architecture.md").read_text().split("\n## The flow")[1].split("\n## ")[0]
    )
    shown = {
        name: (row[1], set(SERVICES) if row[3].startswith("all") else set(row[3].split(", ")) - {"nobody yet"})
        for row in table(section)
        for name in row[0].split(", ")
    }  # fmt: skip
    code = {
        kind.__name__: (
            kind.exchange,
            {service for service, kinds in SUBSCRIPTIONS.items() if kind in kinds},
        )
        for kind in language().values()
    }
    assert shown == code
