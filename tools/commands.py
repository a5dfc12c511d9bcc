"""The commands of `chorus` that need a checkout: `up`, `demo`, `mailbox`."""

import asyncio
from typing import Annotated

import typer

cli = typer.Typer()

Docker = Annotated[bool, typer.Option("--docker", help="Run in containers; fail without Docker.")]
Native = Annotated[bool, typer.Option("--native", help="Run as processes, without Docker.")]


@cli.command()
def up(docker: Docker = False, native: Native = False) -> None:
    """Start everything, in containers or without Docker as processes, and run until Ctrl-C."""
    from tools.up import up as run

    run(docker=docker, native=native)


@cli.command()
def demo(
    leave: Annotated[bool, typer.Option("--exit", help="Stop after the story.")] = False,
    docker: Docker = False,
    native: Native = False,
) -> None:
    """Start everything and play the story of one customer. The exit status is 0 if every step succeeded."""
    from tools.up import demo as run

    run(leave=leave, docker=docker, native=native)


@cli.command()
def mailbox(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    smtp_port: Annotated[int, typer.Option(help="The port of the SMTP server.")] = 1025,
    http_port: Annotated[int, typer.Option(help="The port of the page and the API.")] = 1080,
) -> None:
    """Receive e-mails by SMTP and show them, in place of MailDev. None is delivered or stored on disk."""
    from tools.mail_catcher import run

    asyncio.run(run(host, smtp_port, http_port))
