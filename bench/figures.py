"""Percentiles, medians, and the formatting of numbers."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed (nearest rank).

    Raises ValueError if there are no values.
    """
    if not values:
        raise ValueError("there are no values")
    place = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(place, 1) - 1]


@dataclass(frozen=True)
class Percentiles:
    """The percentiles of durations, in seconds."""

    count: int
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ValueError if there are no values."""
        return cls(len(values), percentile(values, 50), percentile(values, 99), max(values))

    def __str__(self) -> str:
        return " / ".join(milliseconds(value) for value in (self.p50, self.p99, self.most))


@dataclass(frozen=True)
class Spread:
    """The results of several rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Raises ValueError if there are no values."""
        found = list(values)
        if not found:
            raise ValueError("there are no values")
        return cls(statistics.median(found), min(found), max(found))

    def __truediv__(self, by: float) -> "Spread":
        return Spread(self.median / by, self.least / by, self.most / by)


def number(value: float) -> str:
    """Three significant digits, more if it is large: 0.123, 4.56, 78.9, 1,234."""
    if abs(value) < 0.0005:
        return "0"
    for limit, places in ((1, 3), (10, 2), (100, 1)):
        if abs(value) < limit:
            return f"{value:.{places}f}"
    return f"{value:,.0f}"


def spread(value: Spread) -> str:
    """The median, and in brackets the minimum and the maximum."""
    if value.least == value.most:
        return number(value.median)
    return f"{number(value.median)} ({number(value.least)}-{number(value.most)})"


def milliseconds(seconds: float) -> str:
    """A duration in milliseconds, without the unit."""
    return number(seconds * 1000)


def megabytes(size: float) -> str:
    """A size in bytes, in MB, without the unit."""
    return f"{size / 1e6:,.0f}"
