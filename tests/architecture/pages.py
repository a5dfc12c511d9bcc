"""Pages of Markdown: their sections, tables and links."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.code import ROOT

_LINK = re.compile(r"\]\(([^)\s]+)\)")


def section(page: str, title: str) -> str:
    """What stands below a heading, up to the next one. Raises ValueError if there is no such heading."""
    parts = re.split(r"^## +(.+?) *$", page, flags=re.MULTILINE)
    return parts[parts.index(title) + 1]


def table(text: str) -> list[list[str]]:
    """The cells of the first table in a text, without its head; backquotes around a whole cell are taken off."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    return [[_bare(cell) for cell in line.strip("|").split("|")] for line in lines[2:]]


def _bare(cell: str) -> str:
    text = cell.strip()
    return text[1:-1] if re.fullmatch(r"`[^`]*`", text) else text


def links(page: str) -> Iterator[str]:
    """Where a page's links lead to, inside the project."""
    text = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    for target in _LINK.findall(text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(path: Path) -> set[str]:
    """What a link can point at inside a page: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ +(.+?) *$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def function_links(page: Path, text: str) -> Iterator[tuple[str, str]]:
    """Links of the form [`name`](path.py) in a page's text: the name, and the file from the root of the project."""
    for name, target in re.findall(r"\[`([\w.]+)(?:\(\))?`\]\(([^)\s#]+\.py)\)", text):
        yield name, str((page.parent / target).resolve().relative_to(ROOT))
