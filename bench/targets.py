"""The targets of Chorus, and whether they hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bench.figures import number
from bench.tables import Table


@dataclass(frozen=True)
class Target:
    """A limit for one figure."""

    key: str
    """The key in `Outcome.measured`."""
    what: str
    bound: Literal["≥", "≤"]
    limit: float
    unit: str
    bounded_by: str = ""
    """What limits the figure, if the target does not hold."""

    def holds(self, value: float) -> bool:
        """Whether a figure is within the limit."""
        return value >= self.limit if self.bound == "≥" else value <= self.limit


SAME_FRONT: Final = (
    "Every contestant has the same web server and API, and HTTP only has similar SQL: what makes Chorus faster makes"
    " them faster."
)
MAIL: Final = (
    "The same, and an SMTP session with its records: half of the processor time of Chorus"
    " [with mail](profile.md#with-mail)."
)
PYTHON: Final = (
    "Both cores are 90 % busy. Three fifths of the time is Python, most of it in orders, a third PostgreSQL and"
    " RabbitMQ ([profile](profile.md))."
)
START: Final = (
    "It is restarted after a second; then Python imports its libraries on cores that are busy with the load, and the"
    " backlog is settled in parallel with the new orders."
)
ALONE: Final = (
    "A single order waits for three COMMITs and two messages of quorum queues in sequence, each of which is synced to"
    " the disk. The disk of the machine limits it."
)

TARGETS: Final = (
    Target("http_only", "settled orders/s against HTTP only, without mail", "≥", 8, "x", SAME_FRONT),
    Target("http_only_mail", "settled orders/s against HTTP only, with mail", "≥", 4, "x", MAIL),
    Target("usual", "settled orders/s against the usual event-driven build", "≥", 25, "x", SAME_FRONT),
    Target("ceiling", "settled orders/s against the ceiling", "≥", 0.5, "x", PYTHON),
    Target("processor", "processor time per settled order, all processes", "≤", 0.45, "ms", PYTHON),
    Target("accept_p99_at_20", "accepted at 20 orders/s, p99", "≤", 10, "ms"),
    Target("settle_p50_at_20", "settled at 20 orders/s, p50", "≤", 15, "ms", ALONE),
    Target("settle_p99_at_20", "settled at 20 orders/s, p99", "≤", 40, "ms", ALONE),
    Target("accept_p99_at_half", "accepted at half the maximum rate, p99", "≤", 100, "ms"),
    Target("settle_p50_at_half", "settled at half the maximum rate, p50", "≤", 60, "ms"),
    Target("hot", "one hot account against 64 accounts", "≥", 0.9, "x"),
    Target("million", "1,000,000 orders in the tables against none", "≥", 0.8, "x"),
    Target("recovery", "90 % of the rate again after kill -9", "≤", 5, "s", START),
    Target("memory_idle", "memory of the four services, idle", "≤", 400, "MB"),
    Target("memory_full", "memory of the four services, at full load", "≤", 800, "MB"),
    Target("coldstart", "first paid order after a cold start", "≤", 20, "s"),
)  # fmt: skip


def table(measured: Mapping[str, float], *, complete: bool = True) -> Table:
    """The targets, the measurements, and whether they hold. `complete` includes what was not measured."""
    return Table(
        title="Targets",
        head=("what", "target", "measured", "holds"),
        rows=[
            _row(target, measured.get(target.key))
            for target in TARGETS
            if complete or target.key in measured
        ],
    )


def shortfalls(measured: Mapping[str, float]) -> Iterator[str]:
    """The targets that do not hold: a line for each reason."""
    short: dict[str, list[str]] = {}
    for target in TARGETS:
        value = measured.get(target.key)
        if value is not None and not target.holds(value):
            short.setdefault(target.bounded_by, []).append(target.what)
    for bound, rows in short.items():
        yield f"**{'; '.join(rows)}**: {bound or 'the reason is unknown.'}"


def _row(target: Target, value: float | None) -> tuple[str, str, str, str]:
    wanted = f"{target.bound} {target.limit:g} {target.unit}"
    if value is None:
        return target.what, wanted, "not measured", "-"
    holds = "yes" if target.holds(value) else "no"
    return target.what, wanted, f"{number(value)} {target.unit}", holds
