"""The `chorus` command. In a checkout it also has the commands of `tools` and `bench`."""

import asyncio
import importlib
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from apps import SERVICES
from chassis.runtime.settings import settings
from ops import dead, demo_passwords
from ops.console import service_name
from ops.failures import Reported
from ops.rebuild import rebuild
from ops.repair import repair
from ops.republish import republish
from ops.trace.command import trace

cli = typer.Typer(
    name="chorus",
    cls=Reported,
    help="An order system by event collaboration on RabbitMQ.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

cli.add_typer(dead.app, name="dead")
cli.command()(republish)
cli.command()(rebuild)
cli.command()(repair)
cli.command()(trace)

TOPOLOGY_PAGE = """# Topology

Written by `make topology` from [chassis/messaging/topology.py](../chassis/messaging/topology.py), never by hand.
Exchanges are hexagons, with the routing key on the arrow; queues are boxes; services are round.

```mermaid
{picture}```
"""


@cli.command()
def migrate() -> None:
    """Create databases, roles, tables, exchanges, queues and broker users. Idempotent."""
    from ops.migrate import migrate as run

    demo_passwords.check(settings())
    run(settings())


@cli.command()
def serve(
    service: Annotated[
        str, typer.Argument(parser=service_name, help=f"One of {', '.join(SERVICES)}.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="The port; by default the service's own.")
    ] = None,
) -> None:
    """Run one service until SIGTERM. The exit status is 1 if one of its background tasks failed."""
    from ops.serve import serve as run

    demo_passwords.check(settings())
    if not run(service, host, port):
        raise typer.Exit(1)


@cli.command()
def audit(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds for which violations are checked again.")
    ] = 10.0,
    at_rest: Annotated[
        bool, typer.Option("--at-rest", help="Nothing is in flight: what is unfinished is wrong.")
    ] = False,
    watch: Annotated[
        float | None, typer.Option(min=1, help="Audit every so many seconds, until SIGTERM.")
    ] = None,
    host: Annotated[str, typer.Option(help="With --watch: the address of /metrics.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --watch: the port of /metrics.")] = 9108,
) -> None:
    """Check the invariants on the running system. The exit status is 0 if they hold, 1 if not, 2 if that is unknown."""
    from ops.audit import command

    if watch is None:
        raise typer.Exit(asyncio.run(command.once(timeout, at_rest=at_rest, as_json=json)))
    asyncio.run(command.watch(watch, timeout, at_rest=at_rest, address=(host, port)))


@cli.command()
def status(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which what is unfinished is in flight.")
    ] = 60.0,
) -> None:
    """Show services, backlogs with their ages, the last failures, and what is wrong.

    Exit status: 0 nothing is wrong, 1 something is, 2 a database or the broker does not answer.

    Examples: chorus status; watch -n 5 chorus status; chorus status --json | jq .wrong
    """
    from ops.status import run

    raise typer.Exit(run(grace, as_json=json))


@cli.command()
def topology(
    write: Annotated[Path | None, typer.Option(help="The file to write to.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare the broker's with it, and change nothing.")
    ] = False,
) -> None:
    """Show the topology as a mermaid flowchart. With --check: 1 if the broker's differs, 2 if that is unknown."""
    if check:
        from ops.differences import check as run

        raise typer.Exit(run(settings()))
    from chassis.messaging.topology import mermaid
    from ops.subscriptions import TOPOLOGY

    picture = mermaid(TOPOLOGY)
    if write is None:
        typer.echo(picture, nl=False)
    else:
        write.write_text(TOPOLOGY_PAGE.format(picture=picture))


for package in ("tools", "bench"):  # a checkout has them, the image does not
    if importlib.util.find_spec(package) is not None:
        commands: typer.Typer = importlib.import_module(f"{package}.commands").cli
        cli.registered_commands += commands.registered_commands


def main() -> None:
    """Run the command."""
    cli()
