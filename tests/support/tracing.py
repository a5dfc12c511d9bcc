"""Which definitions of ours run while something happens, and how many lines they have."""

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]

Functions = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Functions | ast.ClassDef


@dataclass
class Trace:
    """The definitions that have run, by file and qualified name."""

    rooms: tuple[str, ...]
    """The folders whose definitions count: "chassis", "apps/orders"."""
    found: set[tuple[str, str]] = field(default_factory=set)

    def called(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Take note of a call, as `sys.setprofile` reports it."""
        if event == "call" and (file := _file(frame.f_code.co_filename)).startswith(self.rooms):
            self.found.add((file, frame.f_code.co_qualname))

    def names(self, file: str) -> set[str]:
        """The qualified names that have run in a file, without the functions inside of functions."""
        return {name.partition(".<locals>")[0] for path, name in self.found if path == file}

    def lines(self) -> dict[str, int]:
        """Lines by file: of what has run, of the head of its class, and of the classes that it names."""
        counted: dict[str, set[int]] = {}
        for file in {file for file, _ in self.found}:
            defined = definitions(file)
            for name in self.names(file) & defined.keys():
                self._count(counted, file, name)
        return {file: len(numbers) for file, numbers in sorted(counted.items())}

    def _count(self, counted: dict[str, set[int]], file: str, name: str) -> None:
        node = definitions(file)[name]
        lines = counted.setdefault(file, set())
        if isinstance(node, ast.ClassDef):
            lines |= _head(node)
            return
        lines |= _span(node)
        if (owner := name.rpartition(".")[0]) in definitions(file):
            lines |= _head(definitions(file)[owner])
        for module, kind in self._classes_named_by(file, node):
            counted.setdefault(module, set()).update(_head(definitions(module)[kind]))

    def _classes_named_by(self, file: str, node: ast.AST) -> Iterator[tuple[str, str]]:
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in (origin := names_of(file)):
                module, kind = origin[part.id]
                if module.startswith(self.rooms) and isinstance(definitions(module).get(kind), ast.ClassDef):
                    yield module, kind


@contextlib.contextmanager
def traced(*rooms: str) -> Iterator[Trace]:
    """Trace the calls in this thread. Caches are emptied before: what they keep runs for the first of its kind."""
    for clear in _caches(rooms):
        clear()
    trace = Trace(rooms)
    before = sys.getprofile()
    sys.setprofile(trace.called)
    try:
        yield trace
    finally:
        sys.setprofile(before)


@cache
def definitions(file: str) -> dict[str, Definition]:
    """The classes, functions and methods of a file by qualified name."""
    found: dict[str, Definition] = {}

    def add(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, Definition):
                found[prefix + node.name] = node
                if isinstance(node, ast.ClassDef):
                    add(node.body, f"{prefix}{node.name}.")

    add(ast.parse((ROOT / file).read_text()).body, "")
    return found


@cache
def names_of(file: str) -> dict[str, tuple[str, str]]:
    """Where the names that a file uses are defined: file and name there."""
    found = {name: (file, name) for name in definitions(file) if "." not in name}
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            path = f"{node.module.replace('.', '/')}.py"
            if (ROOT / path).exists():
                found |= {alias.asname or alias.name: (path, alias.name) for alias in node.names}
    return found


def _span(node: Definition) -> set[int]:
    first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
    return set(range(first, (node.end_lineno or node.lineno) + 1))


def _head(node: Definition) -> set[int]:
    """A class without its methods."""
    lines = _span(node)
    for inner in node.body:
        if isinstance(inner, Functions):
            lines -= _span(inner)
    return lines


def _file(name: str) -> str:
    return name.removeprefix(f"{ROOT}/")


def _caches(rooms: tuple[str, ...]) -> Iterator[Callable[[], None]]:
    for name, module in list(sys.modules.items()):
        if name.replace(".", "/").startswith(rooms):
            for one in vars(module).values():
                clear = getattr(one, "cache_clear", None)
                if clear is not None and getattr(one, "__module__", "") == name:
                    yield clear
