"""`chorus repair`: mends what `chorus audit` finds, as far as published events can, and names the rest."""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from apps import SERVICES
from ops.republish import connected, give_back, moment, publish_missing_events

if TYPE_CHECKING:
    from chassis.messaging.publisher import Publisher
    from ops.audit.databases import Databases


def repair(
    since: Annotated[
        datetime | None,
        typer.Option(parser=moment, help="Read the journal from a time on: 2026-11-22T13:05Z, 2h."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds for which the audit checks violations again.")
    ] = 10.0,
    at_rest: Annotated[
        bool, typer.Option("--at-rest", help="Nothing is in flight: what is unfinished is wrong.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what would be mended, and audit.")
    ] = False,
) -> None:
    """Give stopped services back what they have lost, publish what subscribers lack, then audit.

    The exit status is 0 if the invariants hold. A service that has lost something and runs is named, as is every event
    that contradicts a later one: neither is mended.
    """
    from ops.audit import command

    async def work(logs: "Databases", publisher: "Publisher") -> int:
        status = await give_back(logs, publisher, SERVICES, since, dry_run=dry_run)
        await publish_missing_events(logs, None if dry_run else publisher)
        return status

    status = asyncio.run(connected("repair", work))
    found = asyncio.run(command.once(timeout, at_rest=at_rest, as_json=False))
    raise typer.Exit(max(status, found))
