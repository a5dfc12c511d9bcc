"""Bar charts as SVG, in colours that are legible on white and on black."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, unescape

from bench.figures import Spread, number

WIDTH: Final = 760
LABEL: Final = 160
"""The x coordinate at which the bars begin."""

VALUE: Final = 190
"""The space for figures behind the longest bar."""

ROW: Final = 34
TOP: Final = 48
BAR: Final = 18
FONT_SIZE: Final = 13

INK: Final = "#6e7781"
OURS: Final = "#2f81f7"
OTHERS: Final = "#9aa4ae"
FONT: Final = f'font-family="system-ui, sans-serif" font-size="{FONT_SIZE}" fill="{INK}"'


@dataclass(frozen=True)
class Bar:
    """One line of a chart."""

    label: str
    value: Spread
    note: str = ""
    """Text behind the figure."""
    ours: bool = False


def bars(title: str, unit: str, wanted: Sequence[Bar]) -> str:
    """A chart. The bar shows the median of all rounds, a thin line the minimum and the maximum."""
    longest = max((bar.value.most for bar in wanted), default=0.0) or 1.0
    scale = (WIDTH - LABEL - VALUE) / longest
    height = TOP + ROW * len(wanted) + 8
    description = "; ".join(f"{bar.label}: {number(bar.value.median)} {unit}" for bar in wanted)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {FONT}>',
        f"<title>{escape(title)}</title>",
        f"<desc>{escape(description)}</desc>",
        f'<text x="0" y="20" font-size="{FONT_SIZE + 2}" font-weight="600">{escape(title)}, {escape(unit)}</text>',
    ]
    for place, bar in enumerate(wanted):
        lines += _bar(bar, TOP + ROW * place, scale)
    return "\n".join([*lines, "</svg>"]) + "\n"


def title_of(picture: str) -> str:
    """The title of a chart, as its alternative text."""
    return unescape(picture.partition("<title>")[2].partition("</title>")[0])


def _bar(bar: Bar, top: float, scale: float) -> list[str]:
    middle = top + BAR / 2
    text = middle + FONT_SIZE / 3
    length, least, most = (
        round(value * scale, 1) for value in (bar.value.median, bar.value.least, bar.value.most)
    )
    several = bar.value.least != bar.value.most
    line = f"M{LABEL + least:.1f} {middle}H{LABEL + most:.1f}" if several else ""
    weight = ' font-weight="600"' if bar.ours else ""
    colour = OURS if bar.ours else OTHERS
    figure = f"{number(bar.value.median)}{f' · {bar.note}' if bar.note else ''}"
    return [
        f'<text x="{LABEL - 12}" y="{text:.1f}" text-anchor="end"{weight}>{escape(bar.label)}</text>',
        f'<rect x="{LABEL}" y="{top}" width="{max(length, 1)}" height="{BAR}" rx="2" fill="{colour}"/>',
        *([f'<path d="{line}" stroke="{INK}" stroke-width="2"/>'] if line else []),
        f'<text x="{LABEL + max(length, most) + 10:.1f}" y="{text:.1f}"{weight}>{escape(figure)}</text>',
    ]
