"""`chorus dead`: lists, shows, replays and drops dead-lettered messages."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import unquote, urlsplit

import typer
from rich.markup import escape
from rich.table import Table

from apps import SERVICES
from chassis.runtime.settings import settings
from ops.console import console

if TYPE_CHECKING:
    from ops.dead_letters import DeadLetter, DeadLetters

app = typer.Typer(help="Dead-lettered messages: list, show, replay, drop.", no_args_is_help=True)

FAILED: Final = 1
"""The exit status if a message was not found or not replayed. 2 is a wrong command line."""

LATEST: Final = datetime.max.replace(tzinfo=UTC)
EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
"""A message whose time is unknown is neither older nor newer than any age."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGE: Final = re.compile(r"([0-9]{1,6})([smhd])")

Id = Annotated[list[str] | None, typer.Argument(help="Ids of messages.", show_default=False)]
Service = Annotated[
    list[str] | None, typer.Option("--service", help="Only of this service; may be repeated.")
]
Queue = Annotated[str | None, typer.Option(help="Only messages consumed from this queue.")]
Type = Annotated[str | None, typer.Option("--type", help="Only events of this type.")]
Reason = Annotated[str | None, typer.Option(help="Only where the reason contains this.")]
Older = Annotated[
    str | None, typer.Option(help="Only dead-lettered longer ago, such as 30m or 2d.")
]
Newer = Annotated[str | None, typer.Option(help="Only dead-lettered less long ago.")]
All = Annotated[bool, typer.Option("--all", help="All messages.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Chosen:
    """The messages that a command applies to, by ids and filters."""

    def __init__(
        self,
        ids: Sequence[str] | None,
        service: Sequence[str] | None,
        queue: str | None = None,
        kind: str | None = None,
        reason: str | None = None,
        older: str | None = None,
        newer: str | None = None,
    ) -> None:
        if unknown := set(service or ()) - set(SERVICES):
            raise typer.BadParameter(f"there is no service {', '.join(unknown)}")
        self.ids = set(ids or ())
        self.services = tuple(service or SERVICES)
        self._queue, self._type, self._reason = queue, kind, reason
        now = datetime.now(UTC)
        self._before = now - _age(older) if older else None
        self._after = now - _age(newer) if newer else None
        self.narrow = bool(ids or service or queue or kind or reason or older or newer)
        """Whether any id or filter was given."""

    def among(self, letters: Sequence["DeadLetter"]) -> list["DeadLetter"]:
        """The messages that match."""
        return [letter for letter in letters if self._fits(letter)]

    def _fits(self, letter: "DeadLetter") -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and self._queue in (None, letter.origin)
            and self._type in (None, letter.type)
            and (self._reason is None or self._reason in letter.reason)
            and (self._before is None or (letter.since or LATEST) <= self._before)
            and (self._after is None or (letter.since or EARLIEST) >= self._after)
        )


def _age(text: str) -> timedelta:
    if (found := _AGE.fullmatch(text)) is None:
        raise typer.BadParameter(f"{text!r} is no age: write 90s, 30m, 12h or 2d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def administrator_address() -> str:
    """The services' AMQP address with the login of CHORUS_RABBITMQ_API_URL. Raises LookupError.

    It has every node of a cluster, separated by commas, as the services' own address does.
    """
    from chassis.messaging.addresses import node_urls
    from ops.management import with_login

    api = settings().rabbitmq_api_url
    if api is None:
        raise LookupError("CHORUS_RABBITMQ_API_URL is not set; docs/settings.md lists the settings")
    login = urlsplit(api.get_secret_value())
    user, password = (unquote(part or "guest") for part in (login.username, login.password))
    nodes = node_urls(settings().broker_url(SERVICES[0]))
    return ",".join(with_login(url, user, password) for url in nodes)


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
    chosen = Chosen(ids, service, queue, kind, reason, older_than, newer_than)
    letters = _do(chosen)
    if as_json:
        typer.echo(json.dumps([letter.as_json() for letter in letters], indent=2))
        return
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
        chosen = Chosen(ids, service, queue, kind, reason, older_than, newer_than)
        if everything == chosen.narrow:
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
    """The chosen messages, after the decision was applied. Exits with FAILED if an id or the broker is missing."""
    # Imported here because other commands start in three quarters of the time without the broker's library.
    from aio_pika.exceptions import AMQPError

    from ops.dead_letters import NotReplayedError

    try:
        letters = asyncio.run(_on_broker(chosen, decision))
    except (OSError, AMQPError, NotReplayedError) as error:
        typer.echo(f"chorus dead: {error}", err=True)
        raise typer.Exit(FAILED) from None
    if missing := chosen.ids - {letter.id for letter in letters}:
        typer.echo(f"chorus dead: not found: {', '.join(sorted(missing))}", err=True)
        raise typer.Exit(FAILED)
    return letters


async def _on_broker(chosen: Chosen, decision: Decision | None) -> list["DeadLetter"]:
    from ops.dead_letters import DeadLetters

    async with DeadLetters.of(administrator_address()) as dead:
        letters = chosen.among(await dead.hold(chosen.services))
        if decision is not None:
            await decision(dead, letters)
        return letters


def _whole(letter: "DeadLetter") -> dict[str, Any]:
    headers = {
        name: value
        for name, value in (letter.message.headers or {}).items()
        if name != "dead_letter_traceback"
    }
    return {
        **letter.as_json(),
        "headers": json.loads(json.dumps(headers, default=str)),
        "body": letter.message.body.decode(errors="replace"),
        "traceback": letter.traceback,
    }


def _print_table(letters: Sequence["DeadLetter"]) -> None:
    table = Table("id", "type", "queue", "reason", "since", box=None, padding=(0, 2, 0, 0))
    for letter in letters:
        since = letter.since.strftime("%Y-%m-%d %H:%M:%S") if letter.since else "?"
        row = (letter.id, letter.type, letter.origin or "?", letter.reason[:200], since)
        table.add_row(*map(escape, row))
    console.print(table)
