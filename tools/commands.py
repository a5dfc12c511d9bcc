"""The commands that `chorus` has in a checkout only: `up`, `demo`, `mailbox`."""

import asyncio
from typing import Annotated

import typer

cli = typer.Typer()

Docker = Annotated[bool, typer.Option("--docker", help="In containers, or not at all.")]
Native = Annotated[bool, typer.Option("--native", help="As processes, without Docker.")]


@cli.command()
def up(docker: Docker = False, native: Native = False) -> None:
    """Start everything, in containers where Docker answers and else as processes, until Ctrl-C."""
    from tools.console import reported_plainly
    from tools.up import up as run

    with reported_plainly():
        run(docker=docker, native=native)


@cli.command()
def demo(
    leave: Annotated[bool, typer.Option("--exit", help="End after the story.")] = False,
    docker: Docker = False,
    native: Native = False,
) -> None:
    """Start everything and play the story. The exit status is 0 only if it went as told."""
    from tools.console import reported_plainly
    from tools.demo import demo as run

    with reported_plainly():
        run(leave=leave, docker=docker, native=native)


@cli.command()
def mailbox(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    smtp_port: Annotated[int, typer.Option(help="Where letters come in.")] = 1025,
    http_port: Annotated[int, typer.Option(help="The page and the API.")] = 1080,
) -> None:
    """Catch mail and show it, where MailDev is not to be had. Nothing is delivered or kept."""
    from tools.mail_catcher import run

    asyncio.run(run(host, smtp_port, http_port))
