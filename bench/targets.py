"""What Chorus is meant to reach, and whether it does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bench.figures import number
from bench.tables import Table


@dataclass(frozen=True)
class Target:
    """A limit for one figure."""

    key: str
    """What a part calls the figure."""
    what: str
    bound: Literal["at least", "at most"]
    limit: float
    unit: str

    def holds(self, value: float) -> bool:
        """Whether a figure is within the limit."""
        return value >= self.limit if self.bound == "at least" else value <= self.limit


TARGETS: Final = (
    Target("http_only", "settled orders/s against HTTP only, without mail", "at least", 8, "x"),
    Target("http_only_mail", "settled orders/s against HTTP only, with mail", "at least", 4, "x"),
    Target("usual", "settled orders/s against the usual event-driven build", "at least", 25, "x"),
    Target("ceiling", "settled orders/s against the ceiling", "at least", 0.5, "x"),
    Target("processor", "processor time per settled order, everything counted", "at most", 0.45, "ms"),
    Target("accept_p99_at_20", "accepted at 20 orders/s, p99", "at most", 10, "ms"),
    Target("settle_p50_at_20", "settled at 20 orders/s, p50", "at most", 15, "ms"),
    Target("settle_p99_at_20", "settled at 20 orders/s, p99", "at most", 40, "ms"),
    Target("accept_p99_at_half", "accepted at half of the most, p99", "at most", 100, "ms"),
    Target("settle_p50_at_half", "settled at half of the most, p50", "at most", 60, "ms"),
    Target("hot", "one hot account against 64 accounts", "at least", 0.9, "x"),
    Target("million", "1,000,000 orders in the tables against none", "at least", 0.8, "x"),
    Target("recovery", "back at 90 % of the rate after kill -9 of any process", "at most", 5, "s"),
    Target("memory_idle", "memory of the four services, idle", "at most", 400, "MB"),
    Target("memory_full", "memory of the four services, at full load", "at most", 800, "MB"),
    Target("coldstart", "from nothing running to the first paid order", "at most", 20, "s"),
)  # fmt: skip


def table(measured: Mapping[str, float], *, complete: bool = True) -> Table:
    """Row by row: the target, what was measured, whether it holds; `complete` tells of what was not measured too."""
    return Table(
        title="Targets",
        head=("what", "target", "measured", "holds"),
        rows=[
            _row(target, measured.get(target.key))
            for target in TARGETS
            if complete or target.key in measured
        ],
    )


def _row(target: Target, value: float | None) -> tuple[str, str, str, str]:
    wanted = f"{target.bound} {target.limit:g} {target.unit}"
    if value is None:
        return target.what, wanted, "not measured", "-"
    holds = "yes" if target.holds(value) else "no"
    return target.what, wanted, f"{number(value)} {target.unit}", holds
