"""`python -m tests.simulation`: many schedules, on a PostgreSQL of its own. The exit status is 1 if one ends badly."""

import asyncio
import secrets
import signal
import sys
import time
from typing import Annotated

import typer

from tests.simulation.apart import be_quiet
from tests.simulation.machine import play
from tests.simulation.postgres import Postgres
from tests.support.installation import Installation, install_databases
from tests.support.servers import Servers
from tools.servers import PrivatePostgres, private_server


def main(
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same schedules.")
    ] = None,
    schedules: Annotated[int, typer.Option(min=1, help="How many.")] = 300,
    rules: Annotated[int, typer.Option(min=1, help="Of how many rules each, at most.")] = 25,
) -> None:
    """Play schedules of what can happen to Chorus, each a function of a seed. The first bad one is shrunk and shown."""
    # Asked to end by the system: leave as after Ctrl-C, with nothing left running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    be_quiet()
    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    print(f"simulation: seed {chosen}, {schedules} schedules", flush=True)
    with private_server(PrivatePostgres) as private:
        servers = Servers("native", private.url, "", "127.0.0.1", 0)
        installation = Installation("simulated", servers)
        asyncio.run(install_databases(installation))
        postgres = Postgres(installation)
        begun = time.monotonic()
        try:
            played = play(postgres, schedules, rules, seed=chosen)
        except AssertionError as bad:
            print("\n".join([str(bad), *getattr(bad, "__notes__", ())]))
            sys.exit(1)
        finally:
            postgres.close()
    minutes = (time.monotonic() - begun) / 60
    print(
        f"{played.schedules} schedules, {played.schedules / minutes:.0f} a minute, "
        f"{played.steps:,} steps, {played.orders:,} orders, {played.events:,} events, {played.deaths:,} deaths, "
        f"{played.late:,} late confirms, "
        f"digest {played.digest}: nothing is wrong"
    )


if __name__ == "__main__":
    typer.run(main)
