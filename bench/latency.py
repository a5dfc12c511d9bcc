"""The latency of the response and of the settled order at a fixed rate, in an open loop.

Every latency counts from when the order was due, so that a late response does not hide latency (coordinated omission).
An order is settled when the transaction that stored its outcome was committed.
"""

from dataclasses import asdict, dataclass
from typing import Final

from bench.contestants import CHORUS, LABELS, Contestant
from bench.figures import Percentiles, Spread, milliseconds
from bench.load import Sent
from bench.measure import Measured, Times
from bench.plan import Bench
from bench.tables import Outcome, Table

SLOW: Final = 20.0
"""Orders a second at which no contestant is busy."""

SLOW_SECONDS: Final = 4
"""How many times as long the slow rate is measured, to have enough orders."""

TITLE: Final = "Latency of orders at a fixed rate, ms"
FROM_WHEN: Final = "From when an order was due. Refused: in all rounds."
HOW_TO_READ: Final = (
    f"{FROM_WHEN} The rates are 20, half of what each settles at most, and twice as much."
)

Waits = dict[str, dict[str, list["Wait"]]]
"""By contestant, then by rate, round by round."""


@dataclass(frozen=True)
class Wait:
    """The latencies at one rate in one round."""

    rate: float
    accept: Percentiles
    settle: Percentiles
    refused: int
    accepted_rate: float
    settled_rate: float
    """Orders a second until the last one is settled."""

    @classmethod
    def of(cls, rate: float, measured: Measured, sent: Sent, times: Times) -> "Wait":
        """All latencies count from when an order was due."""
        due = dict(zip(sent.order_ids, sent.due, strict=True))
        return cls(
            rate,
            Percentiles.of(sent.waits),
            Percentiles.of([times.settled[id] - at for id, at in due.items()]),
            sum(sent.statuses.values()) - sent.accepted,
            measured.accepted_rate,
            measured.settled_rate,
        )


async def latency(bench: Bench) -> Outcome:
    """The part."""
    plan = bench.plan
    waits: Waits = {}
    for _ in range(1 if plan.quick else plan.rounds):
        for contestant in [CHORUS] if plan.quick else plan.settling:
            with bench.recording_failures(contestant):
                found = await _one_round(bench, contestant)
                for name, wait in found.items():
                    waits.setdefault(contestant.name, {}).setdefault(name, []).append(wait)
    data = {
        who: {rate: [asdict(one) for one in found] for rate, found in by_rate.items()}
        for who, by_rate in waits.items()
    }
    outcome = Outcome(TITLE, tables=[_table(waits)], data=data)
    if ours := waits.get("chorus"):
        outcome.measured = _measured(ours)
    return outcome


async def _one_round(bench: Bench, contestant: Contestant) -> dict[str, Wait]:
    found = {}
    async with bench.running(contestant) as processes:
        await bench.warm(processes)
        most = bench.rates[contestant.name]
        rates = {"20": SLOW}
        if not bench.plan.quick:
            rates |= {"half": most / 2, "twice": most * 2}
        for name, rate in rates.items():
            seconds = bench.plan.seconds * (SLOW_SECONDS if name == "20" else 1)
            found[name] = Wait.of(rate, *await bench.order_at_rate(processes, rate, seconds))
            result = f"accepted {found[name].accept} ms, settled {found[name].settle} ms"
            bench.report(f"{contestant.label} at {rate:,.0f}/s (p50 / p99 / max): {result}")
    return found


def _measured(ours: dict[str, list[Wait]]) -> dict[str, float]:
    def median(name: str, what: str, which: str) -> dict[str, float]:
        values = [getattr(getattr(one, what), which) * 1000 for one in ours.get(name, [])]
        key = f"{what}_{which}_at_{name}"
        return {key: Spread.of(values).median} if values else {}

    return {
        **median("20", "accept", "p99"),
        **median("20", "settle", "p50"),
        **median("20", "settle", "p99"),
        **median("half", "accept", "p99"),
        **median("half", "settle", "p50"),
    }


def _table(waits: Waits) -> Table:
    rows = []
    for who, by_rate in waits.items():
        for found in by_rate.values():
            rate = Spread.of(one.rate for one in found).median
            refused = sum(one.refused for one in found)
            cells = [
                milliseconds(value)
                for ways in ([one.accept for one in found], [one.settle for one in found])
                for value in _middle(ways)
            ]
            settled = f"{Spread.of(one.settled_rate for one in found).median:,.0f}"
            rows.append((f"{LABELS[who]}, {rate:,.0f}/s", *cells, f"{refused:,}", settled))
    return Table(
        TITLE,
        ("", "accepted p50", "p99", "settled p50", "p99", "refused", "settled/s"),
        rows,
        [HOW_TO_READ if any("half" in by_rate for by_rate in waits.values()) else FROM_WHEN],
    )


def _middle(ways: list[Percentiles]) -> tuple[float, float]:
    return Spread.of(one.p50 for one in ways).median, Spread.of(one.p99 for one in ways).median
