"""`chorus status`: services, backlogs with their ages, and the last failures, on one screen."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from apps import SERVICES
from chassis.messaging.topology import DEAD
from chassis.runtime.settings import Settings, settings
from events.base import rfc3339
from ops.audit.access import SESSIONS, Urls, urls_of
from ops.audit.broker import Queue, Queues, read_queues
from ops.audit.databases import Database, DatabaseUnavailableError, reading
from ops.console import printable, show
from ops.trace.asking import dead_letters

CLEAR, WRONG, UNKNOWN = 0, 1, 2
"""Exit statuses."""

LIMIT: Final = 100_000
"""The most rows of an outbox that are counted."""

FAILURES: Final = 5
"""The last failures of a kind that are shown."""

SERVICE: Final = f"""
SELECT ({SESSIONS}) AS connections,
    (SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS waiting) AS outbox,
    (SELECT count(*) FROM (SELECT FROM outbox WHERE retry_at IS NOT NULL LIMIT $1) AS resting) AS resting,
    (SELECT count(*) FROM (SELECT FROM journal_outbox LIMIT $1) AS waiting) AS journal,
    (SELECT extract(epoch FROM clock_timestamp() - occurred_at)::float8 FROM outbox JOIN event_log USING (id)
        ORDER BY id LIMIT 1) AS age
"""  # noqa: S608 - of queries in the code
ORDERS: Final = """
SELECT 'orders pending' AS name, count(*) AS open, extract(epoch FROM now() - min(placed_at))::float8 AS age
FROM orders WHERE status = 'pending'
"""
NOTIFICATIONS: Final = """
SELECT 'notifications ' || status AS name, count(id) AS open,
    extract(epoch FROM now() - min(created_at))::float8 AS age
FROM unnest(ARRAY['waiting', 'pending']) AS status
    LEFT JOIN (SELECT id, status, created_at FROM notifications WHERE status IN ('waiting', 'pending')) AS unfinished
    USING (status)
GROUP BY status ORDER BY status DESC
"""
FAILED: Final = f"""
(SELECT id, status, coalesce(answer, '') AS reason, created_at FROM notifications
    WHERE status IN ('waiting', 'pending') AND attempts > 0 ORDER BY due_at DESC LIMIT {FAILURES})
UNION ALL
(SELECT id, status, coalesce(answer, '') AS reason, created_at FROM notifications
    WHERE status = 'failed' ORDER BY id DESC LIMIT {FAILURES})
"""  # noqa: S608 - a number


@dataclass(frozen=True)
class Service:
    """A service's database and queues. What is unknown is None."""

    name: str
    connections: int
    """Of its processes to its database; a service that does not run has none."""
    outbox: int
    """Rows that the broker has not confirmed, of up to 64 events each."""
    resting: int
    """Those of them that the broker has returned or refused."""
    journal: int
    """Rows that the stream `journal` lacks."""
    age: float | None
    """Seconds since the oldest row of the outbox was committed."""


@dataclass
class Status:
    """Everything at one moment."""

    at: datetime
    grace: float
    """Seconds for which what is unfinished counts as in flight."""
    services: dict[str, Service | str] = field(default_factory=dict)
    """By name; a text says why a database does not answer."""
    backlog: dict[str, tuple[int, float | None]] = field(default_factory=dict)
    """How many are unfinished, and the age of the oldest in seconds."""
    queues: Queues | None = None
    failures: list[dict[str, str]] = field(default_factory=list)

    def wrong(self) -> list[str]:
        """What needs a person, in a line each."""
        found = [line for name in SERVICES for line in self._of_service(name)]
        for name, (count, age) in self.backlog.items():
            if age is not None and age > self.grace:
                found.append(f"{name}: {count:,}, the oldest since {_age(age)}")
        if self.queues is not None:
            found += [f"{name}: not bound, or missing" for name in sorted(self.queues.unbound)]
        return found

    def _of_service(self, name: str) -> Iterator[str]:
        service = self.services.get(name)
        runs = isinstance(service, Service) and service.connections > 0
        if isinstance(service, Service):
            if not runs:
                yield f"{name}: does not run"
            if service.age is not None and service.age > self.grace:
                returned = f", returned or refused: {service.resting:,}" if service.resting else ""
                age = _age(service.age)
                yield f"outbox of {name}: rows: {service.outbox:,}, the oldest since {age}{returned}"
        for queue, found in self.of(name).items():
            if queue == f"{name}.{DEAD}":
                if found.ready:
                    yield f"{queue}: dead-lettered messages: {found.ready:,}"
            elif not found.consumers and (runs or found.ready):
                yield f"{queue}: no consumer, messages: {found.ready:,}"

    def of(self, service: str) -> Mapping[str, Queue]:
        """The queues of a service."""
        found = self.queues.found if self.queues else {}
        return {name: one for name, one in found.items() if name.startswith(f"{service}.")}

    def unknown(self) -> list[str]:
        """What could not be read."""
        found = [f"{name}: {one}" for name, one in self.services.items() if isinstance(one, str)]
        return [*found, *([] if self.queues else ["the broker does not answer, or is not configured"])]  # fmt: skip


async def read_status(urls: Urls, config: Settings, grace: float) -> Status:
    """Read all databases and the broker. What does not answer is noted."""
    status = Status(datetime.now(UTC), grace)
    await asyncio.gather(*(_read_service(status, urls, name) for name in SERVICES))
    status.queues = await read_queues(urls)
    behind = [s for s in SERVICES if (q := status.of(s).get(f"{s}.{DEAD}")) and q.ready]
    if behind:
        status.failures += [
            {"where": f"{one.service}.{DEAD}", "what": one.queue, "reason": one.reason}
            | {"at": rfc3339(one.since) if one.since else ""}
            for one in (await dead_letters(config, behind) or [])[-FAILURES:]
        ]
    return status


async def _read_service(status: Status, urls: Urls, name: str) -> None:
    try:
        async with reading({name: urls.databases[name]}) as databases:
            database = databases[name]
            [row] = await database.rows(SERVICE, LIMIT)
            status.services[name] = Service(name, **row)
            await _read_backlog(status, database, name)
    except DatabaseUnavailableError as error:
        status.services[name] = str(error)


async def _read_backlog(status: Status, database: Database, name: str) -> None:
    sql = {"orders": ORDERS, "notifications": NOTIFICATIONS}.get(name)
    for row in await database.rows(sql) if sql else ():
        status.backlog[row["name"]] = row["open"], row["age"]
    for row in await database.rows(FAILED) if name == "notifications" else ():
        what = f"notification {row['id']} {row['status']}"
        failure = {"where": "mail server", "what": what, "reason": row["reason"]}
        status.failures.append(failure | {"at": rfc3339(row["created_at"])})


def document(status: Status) -> dict[str, Any]:
    """The status for JSON."""
    return {
        "at": rfc3339(status.at),
        "wrong": status.wrong(),
        "unknown": status.unknown(),
        "services": {
            name: {"error": one} if isinstance(one, str) else vars(one)
            for name, one in status.services.items()
        },
        "backlog": {n: {"open": c, "ageSeconds": age} for n, (c, age) in status.backlog.items()},
        "queues": {n: q._asdict() for n, q in status.queues.found.items()} if status.queues else None,
        "failures": status.failures,
    }  # fmt: skip


def page(status: Status) -> Group:
    """The status for people."""
    columns = ("connections", "outbox", "oldest", "journal lacks", "in queues", "in work", "dead")
    services = _table("service", *columns)
    for name in SERVICES:
        services.add_row(name, *_cells(status, name))
    backlog = _table("backlog", "open", "oldest")
    for name, (count, age) in status.backlog.items():
        backlog.add_row(name, f"{count:,}", _age(age))
    failures = _table("last failures", "at", "what", "reason")
    for one in status.failures:
        failures.add_row(*(Text(printable(one[k])) for k in ("where", "at", "what", "reason")))
    shown: list[RenderableType] = [services, "", backlog, ""]
    shown += [failures, ""] if status.failures else []
    shown += [Text(f"unknown: {line}", style="yellow") for line in status.unknown()]
    shown += [Text(f"wrong: {line}", style="red") for line in status.wrong()]
    if not (status.unknown() or status.wrong()):
        shown.append(Text("nothing is wrong", style="green"))
    return Group(*shown)


def _cells(status: Status, name: str) -> list[str]:
    service, queues = status.services[name], dict(status.of(name))
    dead = queues.pop(f"{name}.{DEAD}", None)
    own = ["?"] * 4
    if isinstance(service, Service):
        age = _age(service.age)
        own = [f"{service.connections}", f"{service.outbox:,}", age, f"{service.journal:,}"]
    ready = f"{sum(one.ready for one in queues.values()):,}" if queues else "?"
    held = [one.unacknowledged for one in queues.values() if one.unacknowledged is not None]
    return [*own, ready, f"{sum(held):,}" if held else "?", f"{dead.ready:,}" if dead else "?"]


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="bold")


def _age(seconds: float | None) -> str:
    return "" if seconds is None else f"{max(seconds, 0):,.0f} s"


def run(grace: float, *, as_json: bool) -> int:
    """Read the status and print it. Returns the exit status."""
    found = asyncio.run(read_status(urls_of(settings()), settings(), grace))
    if as_json:
        typer.echo(json.dumps(document(found), indent=2))
    else:
        show(page(found))
    return UNKNOWN if found.unknown() else WRONG if found.wrong() else CLEAR
