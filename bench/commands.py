"""The command that `chorus` has in a checkout only: `bench`."""

from typing import Annotated

import typer

cli = typer.Typer()


@cli.command()
def bench(
    parts: Annotated[list[str] | None, typer.Argument(help="Some parts only.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The first table in 3 minutes.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="One contestant; may be given again.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="How often everything is measured.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How long each measurement takes.")] = None,
    seed: Annotated[int, typer.Option(help="Decides what is random.")] = 1,
    write: Annotated[bool, typer.Option("--write", help="Write docs/performance.md.")] = False,
) -> None:
    """Measure Chorus against other ways to build it, on private servers. The exit status is 1 if anything was wrong."""
    from bench.run import bench as run
    from tools.console import reported_plainly

    with reported_plainly():
        run(
            parts or (), quick=quick, only=only or (), rounds=rounds, length=seconds, seed=seed,
            write=write,
        )  # fmt: skip
