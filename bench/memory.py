"""The memory of the four services: idle, and after each batch of orders at full load.

It is the proportional set size: a page that several processes share is divided among them.
"""

from typing import Final

from apps import SERVICES
from bench.contestants import CHORUS
from bench.figures import megabytes
from bench.plan import Bench
from bench.resources import memory_bytes
from bench.tables import Outcome, Table

BATCHES: Final = 5
SECONDS_EACH: Final = 2
"""How many times as long a batch takes as other measurements."""

TITLE: Final = "Memory of Chorus, MB"

Held = dict[str, int]
"""Bytes by service."""


async def memory(bench: Bench) -> Outcome:
    """The part."""
    found: dict[int, Held] = {}
    with bench.recording_failures(CHORUS):
        async with bench.running(CHORUS) as processes:
            found[0] = _of_services(memory_bytes(processes.roots))
            orders, batch = 0, int(await bench.warm(processes) * bench.plan.seconds * SECONDS_EACH)
            for _ in range(BATCHES):
                measured, _, _ = await bench.order(processes, batch)
                orders += measured.orders
                found[orders] = _of_services(measured.memory)
                bench.report(f"after {orders:,} orders {megabytes(sum(found[orders].values()))} MB")
    outcome = Outcome(TITLE, data=found)
    if found:
        outcome.tables = [_table(found)]
        outcome.measured["memory_idle"] = sum(found[0].values()) / 1e6
        outcome.measured["memory_full"] = max(sum(held.values()) for held in found.values()) / 1e6
    return outcome


def _of_services(held: dict[str, int]) -> Held:
    return {service: held[service] for service in SERVICES}


def _table(found: dict[int, Held]) -> Table:
    """Idle, and after the last batch."""
    rows = [
        (
            f"after {orders:,} orders" if orders else "idle",
            *(megabytes(found[orders][service]) for service in SERVICES),
            megabytes(sum(found[orders].values())),
        )
        for orders in sorted({min(found), max(found)})
    ]
    return Table(TITLE, ("", *SERVICES, "total"), rows)
