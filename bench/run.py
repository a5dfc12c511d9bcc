"""`chorus bench`: runs the requested parts, and reports the results."""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer
import uvloop

from bench import page, targets
from bench.coldstart import coldstart
from bench.contestants import CONTESTANTS
from bench.down import down
from bench.environment import start_servers
from bench.hot import hot
from bench.latency import latency
from bench.machine import describe
from bench.mail import mail
from bench.memory import memory
from bench.million import million
from bench.plan import Bench, Plan
from bench.recovery import recovery
from bench.settled import settled
from bench.tables import Outcome
from ops.console import console
from tools.children import CannotRun
from tools.console import seconds
from tools.servers.folders import project_folder

Part = Callable[[Bench], Awaitable[Outcome]]

PARTS: Final[dict[str, Part]] = {
    "settled": settled,
    "latency": latency,
    "hot": hot,
    "mail": mail,
    "coldstart": coldstart,
    "recovery": recovery,
    "down": down,
    "million": million,
    "memory": memory,
}
QUICK: Final = ("settled", "latency")


def bench(
    parts: Sequence[str],
    *,
    quick: bool,
    only: Sequence[str],
    rounds: int | None,
    length: float | None,
    seed: int,
    write: bool,
) -> None:
    """Run and report. Raises CannotRun, or typer.Exit if there are findings."""
    wanted = _known(parts, list(PARTS), "part") or (QUICK if quick else tuple(PARTS))
    names = _known(only, [one.name for one in CONTESTANTS], "contestant")
    plan = Plan(
        rounds=rounds or (2 if quick else 3),
        seconds=length or (2.0 if quick else 4.0),
        seed=seed,
        quick=quick,
        names=names or tuple(one.name for one in CONTESTANTS),
    )
    started = time.monotonic()
    console.print(f"\n[bold]Chorus[/] measures: {', '.join(wanted)}.")
    with start_servers() as environment:
        machine = describe(environment.servers)
        work = Bench(plan, environment)
        outcomes = uvloop.run(_run(work, wanted))
    _show(outcomes, work.findings, write=write)
    console.print(f"  [dim]{seconds(time.monotonic() - started)}, seed {seed}[/]")
    _save(plan, machine, outcomes, work.findings)
    if write:
        page.write(plan, machine, outcomes, work.findings)
    if work.findings:
        raise typer.Exit(1)


def _known(given: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    for name in given:
        if name not in known:
            raise CannotRun(f"there is no {what} {name!r}; there are {', '.join(known)}")
    return tuple(name for name in known if name in given)


async def _run(work: Bench, wanted: Sequence[str]) -> dict[str, Outcome]:
    outcomes = {}
    for name in wanted:
        work.part = name
        work.report(f"{name} ...")
        outcomes[name] = await PARTS[name](work)
    return outcomes


def _show(outcomes: dict[str, Outcome], findings: Sequence[str], *, write: bool) -> None:
    measured: dict[str, float] = {}
    for outcome in outcomes.values():
        measured |= outcome.measured
        for table in outcome.tables:
            table.show(console)
    targets.table(measured, complete=write).show(console)
    for finding in findings:
        console.print(f"  [red]✗[/] {finding}", markup=True)


def _save(
    plan: Plan, machine: dict[str, str], outcomes: dict[str, Outcome], findings: Sequence[str]
) -> None:
    document: dict[str, Any] = {
        "plan": asdict(plan),
        "machine": machine,
        "parts": {name: outcome.data for name, outcome in outcomes.items()},
        "targets": {k: v for outcome in outcomes.values() for k, v in outcome.measured.items()},
        "findings": list(findings),
    }
    folder = project_folder() / ".chorus" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    path: Path = folder / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}.json"
    path.write_text(json.dumps(document, indent=1))
    console.print(f"  [dim]all figures: {path}[/]")
