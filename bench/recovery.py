"""`kill -9` of each service under full load: the time until as many orders a second are settled as before.

The service is restarted a second after it was killed, as by a supervisor. Afterwards all accepted orders must be
settled once, with one notification: the usual audit applies.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from apps import SERVICES
from bench.audited import FailedAuditError, check
from bench.contestants import CHORUS
from bench.figures import Spread, spread
from bench.load import ClosedLoop
from bench.measure import id_of, read_times, settled, without_garbage_collection
from bench.plan import CONNECTIONS, Bench
from bench.processes import Processes
from bench.tables import Outcome, Table

BEFORE_SECONDS: Final = 3.0
"""How long the load runs before the kill. The first of these seconds does not count."""

DOWN_SECONDS: Final = 1.0
AFTER_SECONDS: Final = 8.0
"""How long the load continues after the kill."""

WINDOW_SECONDS: Final = 0.5
STEP_SECONDS: Final = 0.1
ENOUGH: Final = 0.9
UNLIMITED: Final = 10_000_000
TITLE: Final = "Recovery from kill -9 under load"


@dataclass(frozen=True)
class Recovery:
    """The result of one kill."""

    service: str
    before: float
    """Settled orders a second before it."""
    seconds: float | None
    """From the kill until the rate before it is reached again; None if it was not."""
    unanswered: int
    refused: int


def seconds_to_recover(done: Sequence[float], before: float, within: float) -> float | None:
    """Seconds from a kill until WINDOW_SECONDS have the rate `before` again; 0 if the rate never changed.

    `done` has the times of settled orders, in seconds from the kill; `before` is their rate a second.
    """
    enough = before * WINDOW_SECONDS * ENOUGH
    for step in range(round((within - WINDOW_SECONDS) / STEP_SECONDS) + 1):
        begin = step * STEP_SECONDS
        if sum(begin <= at < begin + WINDOW_SECONDS for at in done) >= enough:
            return begin + WINDOW_SECONDS if step else 0.0
    return None


async def recovery(bench: Bench) -> Outcome:
    """The part."""
    found: dict[str, list[Recovery]] = {}
    for _ in range(bench.plan.rounds):
        for service in SERVICES:
            with bench.recording_failures(CHORUS):
                async with bench.running(CHORUS) as processes:
                    await bench.warm(processes)
                    result = await _kill(bench, processes, service)
                found.setdefault(service, []).append(result)
                bench.report(f"{service} killed: recovered after {result.seconds or 0:.1f} s")
                if result.seconds is None:
                    raise FailedAuditError(
                        f"{service} did not recover to {result.before:,.0f} orders/s"
                    )
    outcome = Outcome(
        TITLE, [_table(found)], data={s: [asdict(r) for r in rs] for s, rs in found.items()}
    )
    if taken := [_seconds(rounds).median for rounds in found.values()]:
        outcome.measured["recovery"] = max(taken)
    return outcome


async def _kill(bench: Bench, processes: Processes, service: str) -> Recovery:
    load = ClosedLoop(processes.urls["orders"], await bench.requests(processes), UNLIMITED)
    async with processes.installation.databases() as databases:
        since = id_of(time.time())
        with without_garbage_collection():
            running = asyncio.create_task(load.run(CONNECTIONS))
            try:
                await asyncio.sleep(BEFORE_SECONDS)
                killed = time.time()
                processes.children[service].kill()
                await asyncio.sleep(DOWN_SECONDS)
                processes.children[service].start()
                await asyncio.sleep(AFTER_SECONDS - DOWN_SECONDS)
                load.stop()
                sent = await running
            finally:
                running.cancel()
            await settled(databases, since, mail=False)
        times = await read_times(databases, since, mail=False)
    await check(processes, sent, since)
    done = sorted(at - killed for at in times.complete())
    counted = BEFORE_SECONDS - 1
    before = sum(-counted <= at < 0 for at in done) / counted
    return Recovery(
        service,
        before,
        seconds_to_recover([at for at in done if at >= 0], before, AFTER_SECONDS),
        sent.unanswered,
        sum(sent.statuses.values()) - sent.accepted,
    )


def _seconds(rounds: Sequence[Recovery]) -> Spread:
    return Spread.of(AFTER_SECONDS if one.seconds is None else one.seconds for one in rounds)


def _table(found: dict[str, list[Recovery]]) -> Table:
    rows = [
        (
            service,
            spread(_seconds(rounds)),
            str(max(one.unanswered for one in rounds)),
            str(max(one.refused for one in rounds)),
        )
        for service, rounds in found.items()
    ]
    return Table(
        TITLE,
        ("killed", f"seconds to {ENOUGH * 100:.0f} % of the rate", "max unanswered", "max refused"),
        rows,
        [f"The service is restarted after {DOWN_SECONDS:.0f} s, which count. Orders do not need users."],
    )  # fmt: skip
