"""One hot account: all orders of one customer, which cannot be charged in parallel, against 64 customers."""

from dataclasses import asdict

from bench.contestants import LABELS
from bench.figures import Spread, spread
from bench.measure import Measured
from bench.plan import CUSTOMERS, Bench
from bench.tables import Outcome, Table

Pair = tuple[Measured, Measured]
"""The measurements of one round: many accounts, one account."""


async def hot(bench: Bench) -> Outcome:
    """The part."""
    pairs: dict[str, list[Pair]] = {}
    for _ in range(bench.plan.rounds):
        for contestant in bench.plan.settling:
            with bench.recording_failures(contestant):
                async with bench.running(contestant) as processes:
                    orders = int(await bench.warm(processes) * bench.plan.seconds)
                    many, _, _ = await bench.order(processes, orders)
                    one, _, _ = await bench.order(processes, orders, hot=True)
                pairs.setdefault(contestant.name, []).append((many, one))
                bench.report(f"{contestant.label}: {one.settled_rate:,.0f} orders/s on one account")
    data = {name: [[asdict(m) for m in pair] for pair in found] for name, found in pairs.items()}
    outcome = Outcome("One hot account", tables=[_table(pairs)], data=data)
    if ours := pairs.get("chorus"):
        outcome.measured["hot"] = _ratio(ours).median
    return outcome


def _ratio(pairs: list[Pair]) -> Spread:
    return Spread.of(one.settled_rate / many.settled_rate for many, one in pairs)


def _table(pairs: dict[str, list[Pair]]) -> Table:
    rows = [
        (
            LABELS[name],
            spread(Spread.of(one.settled_rate for _, one in found)),
            f"{spread(_ratio(found))} x",
        )
        for name, found in pairs.items()
    ]
    head = ("", "one account, settled/s", f"against {CUSTOMERS} accounts")
    return Table("One hot account", head, rows)
