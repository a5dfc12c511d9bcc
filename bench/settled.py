"""Settled orders a second, and the processor time of each.

Each contestant receives as many orders as it needs the same time for, by the rate of its warm-up.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

from apps import SERVICES
from bench.charts import Bar, bars
from bench.contestants import LABELS
from bench.figures import Spread, megabytes, number, spread
from bench.measure import Measured
from bench.plan import Bench
from bench.tables import Outcome, Table

Rounds = dict[str, list[Measured]]
"""The measurements of each contestant, by name."""

Rate = Callable[[Measured], float]

PROCESSES: Final = (
    "orders", "billing", "notifications", "users", "postgres", "rabbitmq", "SMTP sink", "load",
)  # fmt: skip
"""The processes in the table of processor time."""


def settled_rate(measured: Measured) -> float:
    """The rate until all orders are settled."""
    return measured.settled_rate


def sent_rate(measured: Measured) -> float:
    """The rate until all e-mails are sent."""
    return measured.sent_rate


async def run_rounds(bench: Bench, *, mail: bool = False) -> Rounds:
    """Rounds of all contestants, in turns. A contestant that fails once has no figures."""
    rounds: Rounds = {}
    taking_part = bench.plan.settling if mail else bench.plan.contestants
    for turn in range(bench.plan.rounds):
        for contestant in taking_part:
            if turn and contestant.name not in rounds:
                continue
            found: list[Measured] = []
            with bench.recording_failures(contestant):
                async with bench.running(contestant, mail=mail) as processes:
                    rate = await bench.warm(processes)
                    found += [(await bench.order(processes, int(rate * bench.plan.seconds)))[0]]
            if not found:
                rounds.pop(contestant.name, None)
                continue
            rounds.setdefault(contestant.name, []).extend(found)
            rate_text = f"{found[0].settled_rate:,.0f} orders/s"
            bench.report(f"{contestant.label}, round {turn + 1}: {rate_text}")
    return rounds


def rates(rounds: Sequence[Measured], rate: Rate = settled_rate) -> Spread:
    """Orders a second."""
    return Spread.of(map(rate, rounds))


def processor_sum(rounds: Sequence[Measured]) -> Spread:
    """The processor time of all processes per order."""
    return Spread.of(one.processor_sum for one in rounds)


def against(rounds: Rounds, theirs: str, rate: Rate = settled_rate) -> Spread | None:
    """How many times as fast Chorus is, round by round. None without anything to compare."""
    if theirs == "chorus" or not rounds.get("chorus") or not rounds.get(theirs):
        return None
    pairs = zip(rounds["chorus"], rounds[theirs], strict=False)
    return Spread.of(rate(ours) / rate(other) for ours, other in pairs)


async def settled(bench: Bench) -> Outcome:
    """The part."""
    rounds = await run_rounds(bench)
    for name, found in rounds.items():
        bench.rates[name] = rates(found).median
    outcome = Outcome("Settled orders, without mail", data=as_json(rounds))
    outcome.tables = [
        _rates(rounds),
        processor(rounds, "Processor time of an order, ms"),
    ]
    outcome.charts["settled.svg"] = bars(
        "Settled orders, everything on one machine", "orders/s", bars_of(rounds)
    )
    outcome.charts["processor.svg"] = bars(
        "Processor time per settled order, load and servers included",
        "ms",
        [
            Bar(LABELS[name], processor_sum(found), ours=name == "chorus")
            for name, found in rounds.items()
        ],
    )
    for name in ("http_only", "usual", "ceiling"):
        if ratio := against(rounds, name):
            outcome.measured[name] = ratio.median
    if ours := rounds.get("chorus"):
        outcome.measured["processor"] = processor_sum(ours).median
    return outcome


def as_json(rounds: Rounds) -> dict[str, list[dict[str, object]]]:
    """All measurements, as JSON can hold them."""
    return {name: [asdict(one) for one in found] for name, found in rounds.items()}


def _rates(rounds: Rounds) -> Table:
    rows = [
        (
            LABELS[name],
            spread(rates(found)),
            times_as_fast(rounds, name),
            *_memory(found),
        )
        for name, found in rounds.items()
    ]
    head = ("", "settled/s", "Chorus is faster", "MB idle", "MB at the end")
    return Table("Settled orders, without mail", head, rows)


def times_as_fast(rounds: Rounds, name: str, rate: Rate = settled_rate) -> str:
    """How many times as fast Chorus is, for a table."""
    ratio = against(rounds, name, rate)
    return f"{spread(ratio)} x" if ratio else ""


def processor(rounds: Rounds, title: str) -> Table:
    """The processor time by process."""
    rows = [
        (name, *(spent(found, name) for found in rounds.values()))
        for name in PROCESSES
        if any(name in found[0].processor for found in rounds.values())
    ]
    whole = [spread(processor_sum(found)) for found in rounds.values()]
    others = [
        number(Spread.of(max(one.machine - one.processor_sum, 0) for one in found).median)
        for found in rounds.values()
    ]
    rows += [("total", *whole), ("other programs", *others)]
    return Table(title, ("", *(LABELS[name] for name in rounds)), rows)


def _memory(found: Sequence[Measured]) -> tuple[str, str]:
    """The memory of the services, idle and after the load, without the servers, which are the same for all."""
    idle = Spread.of(_of_services(one.idle_memory) for one in found)
    full = Spread.of(_of_services(one.memory) for one in found)
    return megabytes(idle.median), megabytes(full.median)


def _of_services(memory: dict[str, int]) -> int:
    return sum(held for name, held in memory.items() if name in SERVICES)


def spent(found: Sequence[Measured], process: str) -> str:
    """The processor time of one process per order, for a table."""
    if process not in found[0].processor:
        return ""
    return number(Spread.of(one.processor[process] for one in found).median)


def bars_of(rounds: Rounds, rate: Rate = settled_rate) -> list[Bar]:
    """The lines of a chart."""
    found = []
    for name, measured in rounds.items():
        ratio = against(rounds, name, rate)
        note = f"Chorus: {number(ratio.median)} x" if ratio else ""
        found.append(Bar(LABELS[name], rates(measured, rate), note, ours=name == "chorus"))
    return found
