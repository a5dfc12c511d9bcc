"""Settled orders with mail: all e-mails go to the SMTP sink. Also the latency from an order to its e-mail."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final
from uuid import UUID

from bench.charts import bars
from bench.contestants import LABELS, Contestant
from bench.figures import Percentiles, milliseconds, spread
from bench.latency import SLOW, SLOW_SECONDS
from bench.plan import Bench
from bench.settled import (
    PROCESSES,
    Rounds,
    against,
    as_json,
    bars_of,
    processor_sum,
    rates,
    run_rounds,
    sent_rate,
    spent,
    times_as_fast,
)
from bench.tables import Outcome, Table

TITLE: Final = "Settled orders, with mail"
HEAD: Final = (
    "", "e-mails sent/s", "Chorus is faster", "processor time, ms", f"ms at {SLOW:.0f} orders/s p50", "p99",
)  # fmt: skip
AFTER: Final = "Milliseconds: from the order's `placed_at` to the notification's `sent_at`."

PLACED: Final = "SELECT id, placed_at FROM orders WHERE id = ANY($1::uuid[])"
SENT: Final = "SELECT order_id, sent_at FROM notifications WHERE order_id = ANY($1::uuid[])"


async def mail(bench: Bench) -> Outcome:
    """The part."""
    rounds = await run_rounds(bench, mail=True)
    ways: dict[str, Percentiles] = {}
    for contestant in bench.plan.settling:
        with bench.recording_failures(contestant):
            ways[contestant.name] = await _latencies(bench, contestant)
    outcome = Outcome(TITLE, [_table(rounds, ways)])
    outcome.data = {"rounds": as_json(rounds), "emails": {n: asdict(w) for n, w in ways.items()}}
    outcome.charts["mail.svg"] = bars(
        "Orders whose e-mail is sent, everything on one machine", "orders/s", bars_of(rounds, sent_rate)
    )  # fmt: skip
    if ratio := against(rounds, "http_only", sent_rate):
        outcome.measured["http_only_mail"] = ratio.median
    return outcome


async def _latencies(bench: Bench, contestant: Contestant) -> Percentiles:
    """From when an order was placed to when its e-mail was sent, at a slow rate."""
    async with bench.running(contestant, mail=True) as processes:
        await bench.warm(processes)
        _, sent, _ = await bench.order_at_rate(processes, SLOW, bench.plan.seconds * SLOW_SECONDS)
        async with processes.installation.databases() as databases:
            ids = [UUID(id) for id in sent.order_ids]
            placed = dict(await databases["orders"].fetch(PLACED, ids))
            arrived = dict(await databases["notifications"].fetch(SENT, ids))
    return Percentiles.of([(arrived[id] - at).total_seconds() for id, at in placed.items()])


def _table(rounds: Rounds, ways: dict[str, Percentiles]) -> Table:
    rows = [
        (
            LABELS[name],
            spread(rates(found, sent_rate)),
            times_as_fast(rounds, name, sent_rate),
            spread(processor_sum(found)),
            *_delays(ways.get(name)),
        )
        for name, found in rounds.items()
    ]
    return Table(
        TITLE,
        HEAD,
        rows,
        list(_notes(rounds)),
    )


def _delays(way: Percentiles | None) -> tuple[str, str]:
    return (milliseconds(way.p50), milliseconds(way.p99)) if way else ("", "")


def _notes(rounds: Rounds) -> Iterator[str]:
    yield AFTER
    if ours := rounds.get("chorus"):
        each = ", ".join(f"{name} {text}" for name in PROCESSES if (text := spent(ours, name)))
        yield f"Processor time of Chorus by process: {each}."
