"""Tables, for the terminal and for Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable


@dataclass(frozen=True)
class Table:
    """A table. The first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    """Sentences below the table."""
    figures: bool = True
    """Whether the other columns hold figures, aligned to the right."""

    def markdown(self) -> str:
        """The table as Markdown, without the title."""
        lines = [
            _row(self.head),
            "|".join(["|---", *("---:" if self.figures else "---" for _ in self.head[1:]), ""]),
            *map(_row, self.rows),
        ]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    def show(self, console: Console) -> None:
        """Print the table."""
        table = RichTable(title=escape(self.title), title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(self.head):
            right = number > 0 and self.figures
            table.add_column(
                escape(name),
                justify="right" if right else "left",
                overflow="fold",
                no_wrap=number == 0,
            )
        for row in self.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        for note in self.notes:
            console.print(f"  [dim]{escape(note)}[/]")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


@dataclass
class Outcome:
    """The result of a part of the benchmark."""

    title: str
    tables: list[Table] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    """The figures with a target, by the key of the target."""
    charts: dict[str, str] = field(default_factory=dict)
    """SVG by file name."""
    data: Any = None
    """All measurements, as JSON can hold them."""
