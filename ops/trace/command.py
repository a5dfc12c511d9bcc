"""`chorus trace`: what became of an order, a flow or a user; the hop that is missing, where it waits, and why."""

import asyncio
import json
from datetime import datetime
from typing import Annotated, Final

import typer

from chassis.runtime.settings import settings
from ops.console import show
from ops.republish import moment

COMPLETE, MISSING, NOTHING = 0, 1, 3
"""Exit statuses; 2 is that of a database that does not answer."""

FOLLOW_SECONDS: Final = 1.0


def trace(
    id: Annotated[
        str,
        typer.Argument(
            metavar="ORDER_ID|CORRELATION_ID|USER_ID", help="Or an event's id.", show_default=False
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a mermaid sequence diagram.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print it again when it changes, until it is complete.")
    ] = False,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=moment,
            help="Search for a CORRELATION_ID only since then: 30m, 2026-11-22T13:05Z.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Only so many orders of a user, the newest.")
    ] = 10,
) -> None:
    """Show who published what and what followed, with the time of each hop; what is missing, where it waits, and why.

    Exit status: 0 nothing is missing, 1 a hop is missing, 2 a database does not answer, 3 nothing was found.

    Examples: chorus trace 01a203b6-669b-72cb-9084-d5ba8d1a2f37; chorus trace ID --follow; chorus trace ID --mermaid
    """
    if as_json and as_mermaid:
        raise typer.BadParameter("use --json or --mermaid")
    status = asyncio.run(
        _trace(id, since, limit, as_json=as_json, as_mermaid=as_mermaid, follow=follow)
    )
    if status == NOTHING:
        typer.echo(f"chorus trace: nothing was found about {id}", err=True)
    raise typer.Exit(status)


async def _trace(
    id: str,
    since: datetime | None,
    limit: int,
    *,
    as_json: bool,
    as_mermaid: bool,
    follow: bool,
) -> int:
    from ops.audit.access import urls_of
    from ops.trace.asking import story_of
    from ops.trace.pages import mermaid, tree
    from ops.trace.story import document

    shown = None
    while True:
        story = await story_of(urls_of(settings()), settings(), id, since, limit)
        if story is None:
            return NOTHING
        page = document(story)
        if page != shown:
            shown = page
            if as_json:
                typer.echo(json.dumps(page, indent=None if follow else 2))
            elif as_mermaid:
                typer.echo(mermaid(story), nl=False)
            else:
                show(tree(story))
        if not story.missing or not follow:
            return MISSING if story.missing else COMPLETE
        await asyncio.sleep(FOLLOW_SECONDS)
