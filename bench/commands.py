"""The command of `chorus` that needs a checkout: `bench`."""

from typing import Annotated

import typer

cli = typer.Typer()


@cli.command()
def bench(
    parts: Annotated[
        list[str] | None, typer.Argument(help="The parts to run; all by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the main parts, in about 3 minutes.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="A contestant to measure. Repeatable.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="The number of measurements of each contestant.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="The duration of each measurement.")] = None,
    seed: Annotated[int, typer.Option(help="The seed of all random choices.")] = 1,
    write: Annotated[bool, typer.Option("--write", help="Write docs/performance.md.")] = False,
) -> None:
    """Measure Chorus against other ways to build it, on private servers. The exit status is 1 if an audit failed."""
    from bench.run import bench as run
    from tools.console import reported_plainly

    with reported_plainly():
        run(
            parts or (), quick=quick, only=only or (), rounds=rounds, length=seconds, seed=seed,
            write=write,
        )  # fmt: skip
