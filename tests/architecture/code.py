"""The project's code as syntax trees, and the questions that the rules ask of it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from apps import SERVICES

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Module:
    """One source file."""

    path: str
    """From the root of the project: "events/base.py"."""
    tree: ast.Module

    @classmethod
    def of(cls, path: str, source: str) -> "Module":
        return cls(path, ast.parse(source))

    def calls(self, *names: str) -> Iterator[tuple[str, ast.Call]]:
        """Calls of functions or methods of these names, with what stands before the name: "tx" in tx.publish()."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr in names:
                yield ast.unparse(called.value), node
            elif isinstance(called, ast.Name) and called.id in names:
                yield "", node

    def imports(self) -> set[str]:
        """Everything that is imported: modules, and names from modules."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    def texts(self) -> Iterator[str]:
        """Every text in the code."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value

    def lines(self) -> int:
        """How long it is, to the last statement."""
        return max((node.end_lineno or 0 for node in self.tree.body), default=0)

    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        """The functions that stand on the module itself."""
        kinds = ast.FunctionDef | ast.AsyncFunctionDef
        return [node for node in self.tree.body if isinstance(node, kinds)]


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """All source files below these folders, migrations left out: those are written in SQL and run by the owner."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(
        Module.of(str(path.relative_to(ROOT)), path.read_text())
        for path in paths
        if "migrations" not in path.parts
    )


@cache
def defined_names(path: str) -> frozenset[str]:
    """The classes, functions and constants of a file, and the members of its classes by qualified name."""

    def below(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from below(node.body, f"{prefix}{node.name}.")
            targets = (
                node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            )
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

    return frozenset(below(ast.parse((ROOT / path).read_text()).body, ""))


def services_code() -> tuple[Module, ...]:
    """Everything that runs inside a service."""
    return modules("events", "chassis", *(f"apps/{name}" for name in SERVICES))
