"""Cold start: the time from the start of `chorus demo` to the first paid order."""

import asyncio
import sys
import time
from typing import Final

from bench.contestants import CHORUS
from bench.figures import Spread
from bench.plan import Bench
from bench.processes import inherited
from bench.tables import Outcome
from tools.children import Child, ChildFailed
from tools.servers.folders import project_folder

PAID: Final = "receives PaymentSucceeded: paid"
"""The line of the demo about the first paid order."""

POLL_SECONDS: Final = 0.02
TIMEOUT_SECONDS: Final = 120.0


async def coldstart(bench: Bench) -> Outcome:
    """The part."""
    found = []
    for turn in range(bench.plan.rounds):
        with bench.recording_failures(CHORUS):
            found.append(await _demo(bench, turn))
            bench.report(f"paid after {found[-1]:.1f} s")
    outcome = Outcome("Cold start", data=found)
    if found:
        outcome.measured["coldstart"] = Spread.of(found).median
    return outcome


async def _demo(bench: Bench, turn: int) -> float:
    child = Child(
        "demo",
        [sys.executable, "-m", "ops", "demo", "--native", "--exit"],
        log=bench.environment.folder / f"demo-{turn}.log",
        environment=inherited(),
        folder=project_folder(),
    )
    started = time.monotonic()
    try:
        child.start()
        while PAID not in (child.log.read_text() if child.log.exists() else ""):
            if not child.running or time.monotonic() > started + TIMEOUT_SECONDS:
                raise ChildFailed(f"the demo did not reach a paid order\n{child.tail()}")
            await asyncio.sleep(POLL_SECONDS)
        taken = time.monotonic() - started
        await asyncio.to_thread(child.finish, within=TIMEOUT_SECONDS)
    finally:
        child.stop()
    return taken
