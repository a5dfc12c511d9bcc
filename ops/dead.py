"""`chorus dead`: lists, shows, replays and drops dead-lettered messages."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from apps import SERVICES
from ops.console import console, service_name

if TYPE_CHECKING:
    from ops.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(help="Dead-lettered messages: list, show, replay, drop.", no_args_is_help=True)

FAILED: Final = 1
"""The exit status if a message was not found or not replayed. 2 is a wrong command line."""

LATEST: Final = datetime.max.replace(tzinfo=UTC)
EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
"""A message whose time is unknown is neither older nor newer than any age."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def age(text: str) -> timedelta:
    """An age such as 30m. Raises typer.BadParameter."""
    if (found := re.fullmatch(r"([0-9]{1,6})([smhd])", text)) is None:
        raise typer.BadParameter(f"{text!r} is no age: write 90s, 30m, 12h or 2d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


Id = Annotated[list[str] | None, typer.Argument(help="Ids of messages.", show_default=False)]
Service = Annotated[
    list[str] | None,
    typer.Option(parser=service_name, help="Only of this service; may be repeated."),
]
Queue = Annotated[str | None, typer.Option(help="Only messages consumed from this queue.")]
Type = Annotated[str | None, typer.Option("--type", help="Only events of this type.")]
Reason = Annotated[str | None, typer.Option(help="Only where the reason contains this.")]
Older = Annotated[
    timedelta | None,
    typer.Option(parser=age, help="Only dead-lettered longer ago, such as 30m or 2d."),
]
Newer = Annotated[
    timedelta | None, typer.Option(parser=age, help="Only dead-lettered less long ago.")
]
All = Annotated[bool, typer.Option("--all", help="All messages.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Chosen:
    """The messages that a command applies to: those that match all ids and filters that are given."""

    ids: list[str] | None = None
    service: list[str] | None = None
    queue: str | None = None
    type: str | None = None
    reason: str | None = None
    older: timedelta | None = None
    newer: timedelta | None = None

    def among(self, letters: Sequence["DeadLetter"]) -> list["DeadLetter"]:
        """The messages that match."""
        now = datetime.now(UTC)
        return [letter for letter in letters if self._matches(letter, now)]

    def _matches(self, letter: "DeadLetter", now: datetime) -> bool:
        return (
            (self.ids is None or letter.id in self.ids)
            and self.queue in (None, letter.queue)
            and self.type in (None, letter.type)
            and (self.reason is None or self.reason in letter.reason)
            and (self.older is None or (letter.since or LATEST) <= now - self.older)
            and (self.newer is None or (letter.since or EARLIEST) >= now - self.newer)
        )


@app.command("list")
def show_list(
    ids: Id = None,
    service: Service = None,
    queue: Queue = None,
    kind: Type = None,
    reason: Reason = None,
    older_than: Older = None,
    newer_than: Newer = None,
    as_json: Json = False,
) -> None:
    """List dead-lettered messages: the queue they were consumed from, why they failed, and when."""
    letters = _do(Chosen(ids, service, queue, kind, reason, older_than, newer_than))
    if as_json:
        typer.echo(json.dumps([letter.as_json() for letter in letters], indent=2))
    else:
        _print_table(letters)


@app.command()
def show(ids: Id = None, service: Service = None, as_json: Json = False) -> None:
    """Show messages in full: properties, headers, traceback and body."""
    if not ids:
        raise typer.BadParameter("name the ids of messages")
    documents = [_whole(letter) for letter in _do(Chosen(ids, service))]
    if as_json:
        typer.echo(json.dumps(documents, indent=2))
        return
    for document in documents:
        traceback = document.pop("traceback")
        typer.echo(json.dumps(document, indent=2))
        typer.echo(traceback)


Decision = Callable[["DeadLetters", Sequence["DeadLetter"]], Awaitable[None]]


def _deciding(name: str, done: str, about: str, decision: Decision) -> None:
    """Add a command that replays or drops messages."""

    @app.command(name, help=about)
    def decide(
        ids: Id = None,
        service: Service = None,
        queue: Queue = None,
        kind: Type = None,
        reason: Reason = None,
        older_than: Older = None,
        newer_than: Newer = None,
        everything: All = False,
        dry_run: DryRun = False,
    ) -> None:
        # An empty text, from an unset variable of a shell, is no filter: it would match everything.
        chosen = Chosen(
            ids or None,
            service or None,
            queue or None,
            kind or None,
            reason or None,
            older_than,
            newer_than,
        )
        if everything != (chosen == Chosen()):
            raise typer.BadParameter("name ids or filters, or use --all")
        letters = _do(chosen, None if dry_run else decision)
        _print_table(letters)
        typer.echo(f"{len(letters)} {'would be' if dry_run else 'were'} {done}")


_deciding(
    "replay",
    "replayed",
    "Publish messages to the queues they were consumed from. A message replayed twice has one effect.",
    lambda dead, letters: dead.replay(letters),
)
_deciding(
    "drop",
    "dropped",
    "Delete messages. An order whose OrderPlaced is deleted stays pending for ever.",
    lambda dead, letters: dead.drop(letters),
)


def _do(chosen: Chosen, decision: Decision | None = None) -> list["DeadLetter"]:
    """The chosen messages, after the decision was applied. Exits with FAILED if an id is missing."""
    # Imported here: other commands start in three quarters of the time without the broker's library.
    from ops.dead_letters import DeadLetters, NotReplayedError
    from ops.management import administrator_address

    async def on_broker() -> list["DeadLetter"]:
        async with DeadLetters.of(administrator_address()) as dead:
            letters = chosen.among(await dead.hold(chosen.service or SERVICES))
            if decision is not None:
                await decision(dead, letters)
            return letters

    try:
        letters = asyncio.run(on_broker())
    except NotReplayedError as error:
        raise _failure(str(error)) from None
    if missing := {*(chosen.ids or ())} - {letter.id for letter in letters}:
        raise _failure(f"not found: {', '.join(sorted(missing))}")
    return letters


def _failure(text: str) -> typer.Exit:
    typer.echo(f"chorus dead: {text}", err=True)
    return typer.Exit(FAILED)


def _whole(letter: "DeadLetter") -> dict[str, Any]:
    headers = json.loads(json.dumps(letter.message.headers or {}, default=str))
    traceback = headers.pop("dead_letter_traceback", None)
    body = letter.message.body.decode(errors="replace")
    return {**letter.as_json(), "headers": headers, "body": body, "traceback": traceback or ""}


def _print_table(letters: Sequence["DeadLetter"]) -> None:
    table = Table("id", "type", "queue", "reason", "since", box=None, padding=(0, 2, 0, 0))
    for letter in letters:
        since = letter.since.strftime("%Y-%m-%d %H:%M:%S") if letter.since else "?"
        row = (letter.id, letter.type, letter.queue or "?", letter.reason[:200], since)
        table.add_row(*map(escape, row))
    console.print(table)
