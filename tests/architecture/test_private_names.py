"""Private names of FastStream and aio-pika are used in one file."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest

from tests.architecture.code import ROOT, modules

ALLOWED: Final = "chassis/messaging/private_names.py"
LIBRARIES: Final = {"faststream", "aio_pika", "aiormq", "pamqp"}
SUPPRESSED: Final = "noqa: SLF001"
"""Without it ruff refuses a private name of any object but `self`, `cls` and `super()`."""


def offences(source: str) -> Iterator[str]:
    """Uses of private names of the libraries: of an object, of a module, by name, or by inheritance."""
    if SUPPRESSED in source:
        yield SUPPRESSED
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from _private_imports(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr"}:
            name = ast.unparse(node.args[1])
            if name.startswith(("'_", '"_')) and not name.strip("'\"").startswith("__"):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ClassDef):
            yield from _inherited(tree, node)


def _private_imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    above = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    for alias in node.names:
        path = ".".join([*above, alias.name]).split(".")
        if path[0] in LIBRARIES and any(part.startswith("_") for part in path):
            yield f"line {node.lineno}: {'.'.join(path)}"


def _inherited(tree: ast.Module, made: ast.ClassDef) -> Iterator[str]:
    """Private attributes and methods that a subclass shares with its base in one of the libraries."""
    taken: set[str] = set()
    for base in made.bases:
        taken |= _private_attributes(*_origin(tree, ast.unparse(base)))
    for node in ast.walk(made):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {
            "self",
            "cls",
            "super()",
        }:
            name = node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        else:
            continue
        if name in taken:
            yield f"line {node.lineno}: {made.name}.{name}"


def _origin(tree: ast.Module, name: str) -> tuple[str, str]:
    """The module and the name in it that a name at the top of a module stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return node.module or "", alias.name
    return name.rpartition(".")[::2]


@cache
def _private_attributes(origin: str, name: str) -> frozenset[str]:
    if origin.partition(".")[0] not in LIBRARIES:
        return frozenset()
    found: set[str] = set()
    for one in getattr(importlib.import_module(origin), name.rpartition(".")[2]).__mro__:
        found |= vars(one).keys()
        if one.__module__.partition(".")[0] in LIBRARIES:
            found |= {
                node.attr
                for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(one))))  # type: ignore[arg-type]
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
            }
    return frozenset(n for n in found if n.startswith("_") and not n.startswith("__"))


PATHS = [module.path for module in modules("chassis", "ops", "apps")]


@pytest.mark.parametrize("path", PATHS)
def test_a_private_name_of_a_library_is_used_in_one_file_only(path: str) -> None:
    assert path == ALLOWED or [*offences((ROOT / path).read_text())] == []


def test_that_file_uses_some() -> None:
    assert [*offences((ROOT / ALLOWED).read_text())]


@pytest.mark.parametrize(
    "source",
    [
        f"x._connection  # {SUPPRESSED}",
        "getattr(x, '_queue_obj')",
        "setattr(x, '_channel', None)",
        "from faststream._internal.broker import BrokerUsecase",
        "import aio_pika._private",
        "from aio_pika import _private",
        "from faststream.rabbit import RabbitBroker\nclass B(RabbitBroker):\n def f(self): self._connection",
        "import aio_pika\nclass C(aio_pika.RobustConnection):\n async def _on_connected(self): ...",
        "from aio_pika import RobustChannel as R\nclass C(R):\n def f(self): super()._on_close()",
        "from aio_pika import RobustConnection as R\nclass C(R):\n def _RobustConnection__connect_transport(self): ...",
    ],
)
def test_an_offence_is_found(source: str) -> None:
    assert [*offences(source)]


def test_a_private_name_of_a_subclass_of_its_own_is_no_offence() -> None:
    source = (
        "from aio_pika import RobustChannel\nclass C(RobustChannel):\n def f(self): self._mine = 1"
    )
    assert [*offences(source)] == []


def test_ruff_checks_private_names_in_all_product_code() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    assert [line.split(" = ")[0] for line in lines if "SLF001" in line] == ['"tests/**"']
