"""Which of our functions run while something happens, and how many lines of code they have."""

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("events/", "chassis/", "apps/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Trace:
    """The functions and methods that have run, by file: their qualified names."""

    ran: dict[str, set[str]] = field(default_factory=dict)

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Take note of a call, as `sys.setprofile` reports it."""
        file = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
        if event == "call" and file.startswith(ROOMS) and file.endswith(".py"):
            self.ran.setdefault(file, set()).add(frame.f_code.co_qualname)

    @classmethod
    def common(cls, traces: Sequence["Trace"]) -> "Trace":
        """What has run in each of these: what ran beside one of them by chance is left out."""
        files = set.intersection(*(set(trace.ran) for trace in traces))
        return cls({f: set.intersection(*(trace.ran[f] for trace in traces)) for f in files})

    def without(self, *names: str) -> "Trace":
        """This trace without the functions of these qualified names."""
        return Trace({file: ran - set(names) for file, ran in self.ran.items()})

    def lines(self) -> dict[str, int]:
        """Lines of code by file: those of the functions that have run, without blank lines and docstrings."""
        return {file: count for file in sorted(self.ran) if (count := len(self._lines_of(file)))}

    def _lines_of(self, file: str) -> set[int]:
        found: set[int] = set()
        for name in self.ran[file] & lines_of_functions(file).keys():
            found |= lines_of_functions(file)[name]
        return found


@contextlib.contextmanager
def traced() -> Iterator[Trace]:
    """Trace the calls in this thread. Caches are emptied before: what fills them belongs to the way as well."""
    for clear in _caches():
        clear()
    trace = Trace()
    before = sys.getprofile()
    sys.setprofile(trace.note)
    try:
        yield trace
    finally:
        sys.setprofile(before)


@cache
def lines_of_functions(file: str) -> dict[str, frozenset[int]]:
    """The lines of each function of a file, by its qualified name as the interpreter forms it."""
    source = (ROOT / file).read_text()
    blank = {number for number, line in enumerate(source.split("\n"), 1) if not line.strip()}
    found: dict[str, frozenset[int]] = {}

    def add(node: ast.AST, prefix: str) -> None:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, Function):
                found[prefix + inner.name] = frozenset(_code(inner) - blank)
                add(inner, f"{prefix}{inner.name}.<locals>.")
            else:
                add(inner, f"{prefix}{inner.name}." if isinstance(inner, ast.ClassDef) else prefix)

    add(ast.parse(source), "")
    return found


def _code(node: Function) -> set[int]:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    lines = set(range(first, (node.end_lineno or first) + 1))
    if ast.get_docstring(node):
        lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def _caches() -> Iterator[Callable[[], None]]:
    for name, module in list(sys.modules.items()):
        if f"{name.replace('.', '/')}/".startswith(ROOMS) and name != "chassis.runtime.settings":
            for one in vars(module).values():
                clear = getattr(one, "cache_clear", None)
                if clear is not None and getattr(one, "__module__", "") == name:
                    yield clear
