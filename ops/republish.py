"""`chorus republish`: publishes events of the event logs again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from apps import SERVICES
from chassis.database.addresses import of_database
from chassis.runtime.settings import settings
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
    from_journal: Annotated[
        bool,
        typer.Option(
            "--from-journal",
            help="Give stopped services back what their logs lack and the journal has; with --service, --since.",
        ),
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
    only_since = chosen == Chosen(since)
    filtered = (chosen != Chosen() or bool(service)) and not (from_journal and only_since)
    if missing + everything + from_journal + filtered != 1:
        raise typer.BadParameter("use filters, --missing, --from-journal or --all")
    if after is not None and (from_journal or len(service or ()) != 1):
        raise typer.BadParameter("--after goes with one --service")
    chosen.keys()  # an unknown event or queue is refused before anything is published
    services = service or SERVICES

    async def work(logs: "Databases", publisher: "Publisher") -> int:
        if from_journal:
            return await give_back(logs, publisher, services, since, dry_run=dry_run)
        if missing:
            await publish_missing_events(logs, None if dry_run else publisher)
        for name in () if missing else services:
            await _all(chosen, logs, name, after, None if dry_run else publisher)
        return 0

    raise typer.Exit(asyncio.run(connected("republish", work)))


def database_urls() -> dict[str, str]:
    """The databases of all services, with the administrator's login. Raises LookupError."""
    config = settings()
    admin_url = config.administrator_url()
    return {name: of_database(admin_url, config.database_url(name)) for name in SERVICES}


async def connected(command: str, work: "Callable[[Databases, Publisher], Awaitable[int]]") -> int:
    """Work with all databases and the broker, as administrator. Raises what these raise if they go away."""
    from chassis.database.errors import CommitUnknownError
    from chassis.messaging.publisher import Publisher
    from ops.audit.databases import reading
    from ops.management import administrator_address
    from ops.recovery import ServiceRunsError

    publisher = Publisher(administrator_address(), f"chorus {command}")
    try:
        async with reading(database_urls()) as logs:
            return await work(logs, publisher)
    except (ServiceRunsError, CommitUnknownError) as error:
        typer.echo(f"chorus {command}: {error}", err=True)
        return FAILED
    finally:
        await publisher.close()


async def give_back(
    logs: "Databases",
    publisher: "Publisher",
    services: Sequence[str],
    since: datetime | None,
    *,
    dry_run: bool,
) -> int:
    """Give services back what their logs lack and the journal has; FAILED if something stays lost.

    Raises ServiceRunsError if one of them runs that lacks something.
    """
    from ops import recovery
    from ops.management import administrator_address

    kept = datetime.now(UTC) - timedelta(days=settings().event_log_days)
    address, begin = administrator_address(), max(since or kept, kept)
    lost = await recovery.lost(address, publisher, logs, services, begin)
    for service, events in lost.items():
        typer.echo(f"{service}: {len(events):,} events are not in its log")
    if dry_run:
        return 0
    await recovery.require_stopped(logs, lost)
    refused = False
    for service, events in [one for one in lost.items() if one[1]]:
        remarks = await recovery.recover(database_urls()[service], service, events)
        names = {envelope.id: type(envelope.event).__name__ for envelope in events}
        for remark in remarks:
            typer.echo(f"{service}: {names[remark.event]} {remark.event} {remark.text}")
            refused |= not remark.written
    return FAILED if refused else 0


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


async def publish_missing_events(logs: "Databases", publisher: "Publisher | None") -> None:
    """Publish to each queue what its service lacks; without a publisher only count."""
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
