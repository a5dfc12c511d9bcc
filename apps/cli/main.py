"""The `chorus` command."""

import asyncio
import contextlib
import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn
from fastapi import FastAPI

from apps.cli import dead
from apps.common.settings import SERVICES, settings

cli = typer.Typer(
    name="chorus",
    help="An order system by event collaboration on RabbitMQ.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

cli.add_typer(dead.app, name="dead")

GRACEFUL_SECONDS = 4
"""How long uvicorn waits for open answers, before the service itself may stop. Part of its STOP_SECONDS."""

KEEP_ALIVE_SECONDS = 75
"""Longer than the pools of usual clients and proxies keep an idle connection: who closes first must be the client, or
its next request may meet a connection that is just being closed."""

TOPOLOGY_PAGE = """# Topology

Drawn by `make topology` from [events/bus/topology.py](../events/bus/topology.py), never by hand. Exchanges are
hexagons, with the routing key on the arrow; queues are boxes; services are round.

```mermaid
{picture}```
"""


class Server(uvicorn.Server):
    """uvicorn, except that a signal which has been obeyed is not raised again: SIGTERM ends with status 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM for as long as the server runs."""
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; long answers are told, so that they do not hold the stop up."""
        super().handle_exit(sig, frame)
        if isinstance(app := self.config.app, FastAPI) and hasattr(app.state, "service"):
            app.state.service.ask_to_stop()


@cli.command()
def migrate() -> None:
    """Make databases, roles, tables, exchanges, queues and broker users. Running it again changes nothing."""
    from apps.cli.migrate import (
        apply_topology,
        create_database,
        let_the_auditor_read,
        upgrade_database,
    )

    config = settings()
    if config.database_admin_url is None:
        raise LookupError(
            "CHORUS_DATABASE_ADMIN_URL is not set; docs/settings.md lists the settings"
        )
    admin_url = config.database_admin_url.get_secret_value()
    for service in SERVICES:
        url = config.database_url(service)
        asyncio.run(create_database(admin_url, url))
        upgrade_database(admin_url, service, url)
        if config.auditor_password is not None:
            password = config.auditor_password.get_secret_value()
            asyncio.run(let_the_auditor_read(admin_url, service, url, password))
        typer.echo(f"{service}: database ready")
    apply_topology(config, SERVICES)
    typer.echo("broker: topology ready")


@cli.command()
def serve(
    service: Annotated[str, typer.Argument(help=f"One of {', '.join(SERVICES)}.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="The port; by default the service's own.")
    ] = None,
) -> None:
    """Run one service until SIGTERM. The exit status is 1 if one of its background tasks died."""
    if service not in SERVICES:
        raise typer.BadParameter(
            f"there is no service {service!r}; there are {', '.join(SERVICES)}"
        )
    app = importlib.import_module(f"apps.{service}.main").app
    server = Server(
        uvicorn.Config(
            app,
            host=host,
            port=port or 8001 + SERVICES.index(service),
            loop="uvloop",
            http="httptools",
            ws="none",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            log_level="warning",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
    )
    server.run()
    started = getattr(app.state, "service", None)
    if not server.started or started is None or started.supervisor.failed:
        raise typer.Exit(1)


@cli.command()
def audit(
    json: Annotated[bool, typer.Option("--json", help="Say it for programs.")] = False,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds for which what is wrong is looked at again.")
    ] = 10.0,
    at_rest: Annotated[
        bool, typer.Option("--at-rest", help="Nothing is on its way: what is unfinished is wrong.")
    ] = False,
    watch: Annotated[
        float | None, typer.Option(min=1, help="Audit again every so many seconds, until SIGTERM.")
    ] = None,
    host: Annotated[str, typer.Option(help="With --watch: the address of /metrics.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --watch: its port.")] = 9108,
) -> None:
    """Check the invariants on the running system. The exit status is 0 if they hold, 1 if not, 2 if nobody can say."""
    from apps.cli.audit import once, watching

    if watch is None:
        raise typer.Exit(asyncio.run(once(patience, at_rest=at_rest, as_json=json)))
    asyncio.run(watching(watch, patience, at_rest=at_rest, address=(host, port)))


@cli.command()
def topology(
    write: Annotated[Path | None, typer.Option(help="The file to write to.")] = None,
) -> None:
    """Show the topology as a mermaid flowchart."""
    from events.bus.topology import mermaid
    from events.bus.topology import topology as wanted

    picture = mermaid(wanted())
    if write is None:
        typer.echo(picture, nl=False)
    else:
        write.write_text(TOPOLOGY_PAGE.format(picture=picture))


Docker = Annotated[bool, typer.Option("--docker", help="In containers, or not at all.")]
Native = Annotated[bool, typer.Option("--native", help="As processes, without Docker.")]


@cli.command()
def up(docker: Docker = False, native: Native = False) -> None:
    """Start everything, in containers where Docker answers and else as processes, until Ctrl-C."""
    from apps.cli.console import told_plainly
    from apps.cli.up import up as run

    with told_plainly():
        run(docker=docker, native=native)


@cli.command()
def demo(
    leave: Annotated[bool, typer.Option("--exit", help="End after the story.")] = False,
    docker: Docker = False,
    native: Native = False,
) -> None:
    """Start everything and play the story. The exit status is 0 only if it went as told."""
    from apps.cli.console import told_plainly
    from apps.cli.demo import demo as run

    with told_plainly():
        run(leave=leave, docker=docker, native=native)


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
    from apps.cli.console import told_plainly
    from bench.run import bench as run

    with told_plainly():
        run(
            parts or (), quick=quick, only=only or (), rounds=rounds, length=seconds, seed=seed,
            write=write,
        )  # fmt: skip


@cli.command()
def mailbox(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    smtp_port: Annotated[int, typer.Option(help="Where letters come in.")] = 1025,
    http_port: Annotated[int, typer.Option(help="The page and the API.")] = 1080,
) -> None:
    """Catch mail and show it, where MailDev is not to be had. Nothing is delivered or kept."""
    from apps.cli.mailbox import run

    asyncio.run(run(host, smtp_port, http_port))


def main() -> None:
    """Run the command; what is wrong with the settings is said in one line."""
    try:
        cli()
    except LookupError as error:
        typer.echo(f"chorus: {error.args[0] if error.args else error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
