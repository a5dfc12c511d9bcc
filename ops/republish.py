"""`chorus republish`: publishes events of the event logs again."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from apps import SERVICES
from chassis.runtime.settings import required, settings
from ops.console import service_name
from ops.dead import age

if TYPE_CHECKING:
    from chassis.messaging.publisher import Publisher
    from ops.audit.databases import Databases
    from ops.event_logs import Chosen

FAILED: Final = 1
"""The exit status if something was not published. 2 is a wrong command line or setting."""


def moment(text: str) -> datetime:
    """A time, or how long ago it was: 2026-11-22T13:05Z, 30m, 2d. Raises typer.BadParameter."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - age(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def republish(
    service: Annotated[
        list[str] | None,
        typer.Option(parser=service_name, help="Only what this service published; repeatable."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(parser=moment, help="Only since a time: 2026-11-22T13:05Z, or 30m, 2h, 2d."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=moment, help="Only before a time.")
    ] = None,
    event: Annotated[list[UUID] | None, typer.Option(help="Only this event; repeatable.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--type", help="Only of this type; repeatable.")
    ] = None,
    aggregate: Annotated[str | None, typer.Option(help="Only about this user, order...")] = None,
    correlation: Annotated[str | None, typer.Option(help="Only of this flow.")] = None,
    to: Annotated[str | None, typer.Option(help="Publish to this queue alone.")] = None,
    missing: Annotated[
        bool,
        typer.Option("--missing", help="Only what a subscriber lacks, to its queue; no filters."),
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is kept.")] = False,
    after: Annotated[
        UUID | None, typer.Option(help="Go on after this row, with one --service.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be published.")
    ] = False,
) -> None:
    """Publish events of the event logs again, under their ids: what a consumer has processed, it skips.

    Events that were committed together may share a row of a log; a row is published as a whole.

    Examples: chorus republish --missing; chorus republish --service orders --since 2h --to billing.order-placed
    """
    from ops.event_logs import Chosen

    if "" in (aggregate, correlation, to):
        raise typer.BadParameter("an empty text is no filter")
    chosen = Chosen(since, until, event or None, kind or None, aggregate, correlation, to)
    filtered = chosen != Chosen() or bool(service)
    if missing + everything + filtered != 1:
        raise typer.BadParameter("use filters, --missing or --all")
    if after is not None and len(service or ()) != 1:
        raise typer.BadParameter("--after goes with one --service")
    chosen.keys()  # an unknown event or queue is refused before anything is published
    services = service or SERVICES
    raise typer.Exit(asyncio.run(_run(chosen, services, after, missing=missing, dry_run=dry_run)))


async def _run(
    chosen: "Chosen", services: Sequence[str], after: UUID | None, *, missing: bool, dry_run: bool
) -> int:
    from aio_pika.exceptions import AMQPError

    from chassis.messaging.publisher import Publisher
    from ops.audit.databases import DatabaseUnavailableError, reading
    from ops.management import administrator_address
    from ops.migrate import of_database

    admin_url, config = required("CHORUS_DATABASE_ADMIN_URL"), settings()
    urls = {name: of_database(admin_url, config.database_url(name)) for name in SERVICES}
    publisher = Publisher(administrator_address(), "chorus republish")
    try:
        async with reading(urls) as logs:
            if missing:
                await _missing(logs, None if dry_run else publisher)
            for name in () if missing else services:
                await _all(chosen, logs, name, after, None if dry_run else publisher)
    except (DatabaseUnavailableError, OSError, AMQPError) as error:
        typer.echo(f"chorus republish: {error!r}", err=True)
        return FAILED
    finally:
        await publisher.close()
    return 0


async def _all(
    chosen: "Chosen",
    logs: "Databases",
    service: str,
    after: UUID | None,
    publisher: "Publisher | None",
) -> None:
    from ops.event_logs import publish_rows

    count = 0
    try:
        async for rows in chosen.rows(logs, service, after):
            count += await publish_rows(publisher, rows, chosen.queue)
            after = rows[-1].id
            upto = f"{rows[-1].occurred_at:%F %T} UTC"
            typer.echo(f"{service}: {count:,} events, up to {upto}", err=True)
    except BaseException:
        position = f" --after {after}" if after else ""
        typer.echo(
            f"stopped: go on with --service {service}{position}, then the services after it",
            err=True,
        )
        raise
    typer.echo(f"{service}: {count:,} events {'were' if publisher else 'would be'} published")


async def _missing(logs: "Databases", publisher: "Publisher | None") -> None:
    from ops.audit.auditor import IN_FLIGHT
    from ops.audit.rules import View
    from ops.event_logs import publish_missing

    retention = timedelta(days=settings().event_log_days)
    view = await View(logs, (9,), IN_FLIGHT, retention=retention).refreshed()
    counts = await publish_missing(publisher, logs, view)
    for queue, count in sorted(counts.items()):
        typer.echo(f"{queue}: {count:,} events {'were' if publisher else 'would be'} published")
    if not counts:
        typer.echo("no subscriber lacks an event that is kept")
