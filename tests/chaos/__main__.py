"""`python -m tests.chaos`: one run, its figures, and a verdict as exit status."""

import asyncio
import json
import secrets
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from tests.chaos.run import run
from tests.chaos.verdict import Report

RATE = 100.0


def main(
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same schedule.")] = None,
    minutes: Annotated[float, typer.Option(min=0.5, help="How long it goes on.")] = 3.0,
    rate: Annotated[float, typer.Option(min=1, help="Requests per second.")] = RATE,
    report: Annotated[Path | None, typer.Option(help="Write everything as JSON.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the end.")] = False,
) -> None:
    """Run all of Chorus under load while everything fails, then check that nothing is lost and nothing doubled.

    Ends with 0 if all is well, 1 if something is wrong, 3 if too few faults were done for a verdict.
    """
    # Asked to end by the system: leave as after Ctrl-C, with nothing left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    print(f"chaos: seed {chosen}, {minutes:g} minutes", flush=True)

    def say(text: str) -> None:
        if not quiet:
            print(f"  {text}", flush=True)

    found = Report(chosen, minutes)
    try:
        asyncio.run(run(found, rate, say))
    except Exception as error:
        print(f"no verdict, for {error!r}")  # among the faults; the traceback goes to the logs
        raise
    if report is not None:
        report.write_text(json.dumps(found.as_json(), indent=2) + "\n")
    print("\n".join(found.lines()))
    sys.exit(found.status)


if __name__ == "__main__":
    typer.run(main)
