"""`chorus rebuild`: makes a service's copies of others' data again, and proves that they equal the owners' state."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from apps import SERVICES
from chassis.runtime.settings import settings
from ops.console import service_name
from ops.republish import database_urls

if TYPE_CHECKING:
    from ops.audit.databases import Databases
    from ops.projections import Projection
    from ops.rebuilder import Progress

FAILED: Final = 1
"""The exit status if a rebuild was stopped, or copies differ after it. 2 is a wrong command line or setting."""

EXAMPLES: Final = 20
"""Differences that are printed of each projection."""

PROGRESS_SECONDS: Final = 2.0
"""Between two lines of progress."""


def rebuild(
    service: Annotated[
        str, typer.Argument(parser=service_name, help=f"One of {', '.join(SERVICES)}.")
    ],
    projection: Annotated[
        list[str] | None, typer.Option(help="Only this table of copies; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be mended.")
    ] = False,
) -> None:
    """Make a service's copies of others' data again, while it runs: from the owners' current state and event logs.

    Publishes no event, and sends no e-mail but to recipients that were missing. Ends with the audit's comparison of the
    copies with the owners' state; the exit status is 1 if they differ. Stopped, it can be run again.

    Examples: chorus rebuild notifications; chorus rebuild billing --projection holders --dry-run
    """
    from ops.projections import PROJECTIONS

    declared = {one.name: one for one in PROJECTIONS if one.service == service}
    if unknown := {*(projection or ())} - declared.keys():
        raise typer.BadParameter(
            f"{service} has no projection {', '.join(unknown)}; it has {', '.join(declared)}"
        )
    chosen = [declared[name] for name in dict.fromkeys(projection or declared)]
    raise typer.Exit(asyncio.run(_run(service, chosen, dry_run=dry_run)))


async def _run(service: str, chosen: "Sequence[Projection]", *, dry_run: bool) -> int:
    from chassis.database.pool import Database
    from ops.audit.databases import reading
    from ops.rebuilder import Rebuilder

    urls, unsafe = database_urls(), settings().allow_unsafe_database
    database = Database(urls[service], "rebuild", size=1, allow_unsafe=unsafe)
    async with reading(urls) as databases:  # first: it does not wait for a server that is away
        await database.open()
        try:
            for one in chosen:
                rebuilder = Rebuilder(one, databases, database.pool, dry_run)
                await _report(f"{one.name}, from the state of {one.owner}", rebuilder.from_state())
                await _report(f"{one.name}, from the log of {one.owner}", rebuilder.from_log())
            return 0 if dry_run else await _prove(databases, chosen)
        finally:
            await database.close()


async def _report(what: str, done: "AsyncIterator[Progress]") -> None:
    read = mended = 0
    due = time.monotonic() + PROGRESS_SECONDS
    async for progress in done:
        read, mended = read + progress.read, mended + progress.mended
        if time.monotonic() > due:
            typer.echo(f"{what}: {read:,} read", err=True)
            due = time.monotonic() + PROGRESS_SECONDS
    typer.echo(f"{what}: {read:,} read, {mended:,} mended")


async def _prove(databases: "Databases", chosen: "Sequence[Projection]") -> int:
    """Compare the copies with the owners' state, as the audit does. Returns the exit status."""
    from ops.audit import auditor, services
    from ops.audit.rules import Source, View

    retention = timedelta(days=settings().event_log_days)
    view = await View(databases, (7,), auditor.IN_FLIGHT, retention=retention).refreshed()
    equal = {one: services.equality(one) for one in chosen}
    sources: list[Source] = [source for source in equal.values() if source]
    deadline = time.monotonic() + auditor.TIMEOUT_SECONDS
    found, _ = await auditor.lasting(view, await auditor.evaluate(view, sources), deadline)
    for one, source in equal.items():
        differences = found.get(source, []) if source else []
        for difference in differences[:EXAMPLES]:
            typer.echo(difference.text)
        if source is None:
            typer.echo(f"{one.name}: the audit does not compare it")
        elif not differences:
            typer.echo(f"{one.name} equals the state of {one.owner}")
    return FAILED if any(found.values()) else 0
