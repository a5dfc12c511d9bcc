"""Settled orders with mail: all e-mails go to the SMTP sink. Also the latency from an order to its e-mail."""

from dataclasses import asdict
from typing import Final
from uuid import UUID

from bench.charts import bars
from bench.contestants import LABELS, Contestant
from bench.figures import Percentiles, milliseconds, spread
from bench.latency import SLOW, SLOW_SECONDS
from bench.plan import Bench
from bench.settled import (
    HOW_TO_READ,
    Rounds,
    against,
    as_json,
    bars_of,
    processor,
    rates,
    run_rounds,
    sent_rate,
    times_as_fast,
)
from bench.tables import Outcome, Table

PLACED: Final = "SELECT id, placed_at FROM orders WHERE id = ANY($1::uuid[])"
SENT: Final = "SELECT order_id, sent_at FROM notifications WHERE order_id = ANY($1::uuid[])"


async def mail(bench: Bench) -> Outcome:
    """The part."""
    rounds = await run_rounds(bench, mail=True)
    ways: dict[str, Percentiles] = {}
    for contestant in bench.plan.settling:
        with bench.recording_failures(contestant):
            ways[contestant.name] = await _latencies(bench, contestant)
    outcome = Outcome("Settled orders, with mail")
    outcome.data = {"rounds": as_json(rounds), "emails": {n: asdict(w) for n, w in ways.items()}}
    outcome.tables = [
        _rates(rounds),
        processor(rounds, "What an order costs with mail: processor time, in ms"),
        _ways(ways),
    ]
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


def _rates(rounds: Rounds) -> Table:
    rows = [
        (
            LABELS[name],
            spread(rates(found, sent_rate)),
            spread(rates(found)),
            times_as_fast(rounds, name, sent_rate),
        )
        for name, found in rounds.items()
    ]
    return Table(
        "Settled orders, with mail",
        ("", "e-mails sent/s", "settled/s", "Chorus is faster"),
        rows,
        [f"{HOW_TO_READ} The rate counts until the last e-mail is recorded as sent."],
    )


def _ways(ways: dict[str, Percentiles]) -> Table:
    rows = [
        (LABELS[name], *map(milliseconds, (way.p50, way.p99, way.most)), str(way.count))
        for name, way in ways.items()
    ]
    title = f"From an order to its e-mail, at {SLOW:.0f} orders/s: milliseconds"
    head = ("", "p50", "p99", "max", "orders")
    note = "From `placed_at` of the order to `sent_at` of the notification, after the reply of the mail server."
    return Table(title, head, rows, [note])
