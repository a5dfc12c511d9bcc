"""The `chorus` command. In a checkout it also has the commands of `tools` and `bench`."""

import asyncio
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from apps import SERVICES
from chassis.runtime.settings import settings
from ops import dead

cli = typer.Typer(
    name="chorus",
    help="An order system by event collaboration on RabbitMQ.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

cli.add_typer(dead.app, name="dead")

CHECKOUT_ONLY: Final = ("tools", "bench")
"""Packages outside of the image that have a module `commands`."""

TOPOLOGY_PAGE = """# Topology

Written by `make topology` from [chassis/messaging/topology.py](../chassis/messaging/topology.py), never by hand.
Exchanges are hexagons, with the routing key on the arrow; queues are boxes; services are round.

```mermaid
{picture}```
"""


@cli.command()
def migrate() -> None:
    """Create databases, roles, tables, exchanges, queues and broker users. Idempotent."""
    from ops.migrate import (
        apply_topology,
        create_database,
        grant_auditor,
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
            asyncio.run(grant_auditor(admin_url, service, url, password))
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
    """Run one service until SIGTERM. The exit status is 1 if one of its background tasks failed."""
    if service not in SERVICES:
        raise typer.BadParameter(
            f"there is no service {service!r}; there are {', '.join(SERVICES)}"
        )
    from ops.serve import serve as run

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
    if watch is None:
        from ops.audit.command import once

        raise typer.Exit(asyncio.run(once(timeout, at_rest=at_rest, as_json=json)))
    from ops.audit.watch import watch as run

    asyncio.run(run(watch, timeout, at_rest=at_rest, address=(host, port)))


@cli.command()
def topology(
    write: Annotated[Path | None, typer.Option(help="The file to write to.")] = None,
) -> None:
    """Show the topology as a mermaid flowchart."""
    from chassis.messaging.topology import mermaid
    from ops.subscriptions import TOPOLOGY

    picture = mermaid(TOPOLOGY)
    if write is None:
        typer.echo(picture, nl=False)
    else:
        write.write_text(TOPOLOGY_PAGE.format(picture=picture))


def _add_checkout_commands() -> None:
    for package in CHECKOUT_ONLY:
        if importlib.util.find_spec(package) is not None:
            commands: typer.Typer = importlib.import_module(f"{package}.commands").cli
            cli.registered_commands += commands.registered_commands


_add_checkout_commands()


def main() -> None:
    """Run the command. A wrong setting is reported as one line, with exit status 2."""
    try:
        cli()
    except LookupError as error:
        typer.echo(f"chorus: {error.args[0] if error.args else error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
