"""The two forms of rule about rows: a `Check` of one service's database, and a `Comparison` of two.

Each rule is stated once, in SQL. The database evaluates it over all rows and returns only violations, with the values
that name them. The same query, limited to ids, evaluates the rule again for what was found before.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from events.base import least_id
from ops.audit.databases import Databases
from ops.audit.digests import LOWEST, Ids, Line, Lines, differing_spans, read
from ops.audit.findings import INVARIANTS, Finding, Kind, about

MOST: Final = 20_000
"""Findings of one rule, the lowest ids first. If this many were found, there may be more."""

NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class View:
    """The databases as an audit reads them, and what it judges: orders from an id on, by some of the invariants."""

    databases: Databases
    numbers: Collection[int] = tuple(INVARIANTS)
    grace: timedelta = timedelta(0)
    """What happened less than this ago is in flight: not judged by what has not followed yet. Zero at rest."""
    since: UUID = LOWEST
    retention: timedelta = timedelta(days=7)
    """For how long event logs keep what was published."""
    republished: Collection[UUID] = ()
    """Rows of inboxes with events that were published under new ids, as tests do."""
    now: datetime = NEVER
    """The moment of this round, by billing's clock."""

    async def refreshed(self) -> "View":
        """The same, at this moment by billing's clock."""
        return replace(self, now=await self.databases["billing"].value("SELECT now()"))

    @property
    def retained(self) -> UUID:
        """The least id of an event that event logs and inboxes must still hold."""
        return least_id(self.now - self.retention)

    def lowest(self, kind: Kind) -> UUID:
        """The least id of a kind that is judged."""
        starts = {"order": self.since, "notification": self.since, "event": self.retained}
        return starts.get(kind, LOWEST)

    def in_flight(self, moments: Collection[datetime | None]) -> bool:
        """Whether the last of these moments is younger than `grace`. One that lies further ahead does not count."""
        known = [moment for moment in moments if moment is not None]
        return bool(known) and -self.grace <= self.now - max(known) < self.grace


class Source(Protocol):
    """Whatever finds violations."""

    async def find(self, view: View, ids: Ids = None) -> list[Finding]:
        """Violations of the view's invariants, and candidates in flight. Raises DatabaseUnavailableError."""


@dataclass(frozen=True)
class Rule:
    """A condition, in SQL, that no row of its check meets; and what is wrong with one that does."""

    number: int
    violated: str
    text: str
    """Follows the subject's kind and id, formatted with the row's columns."""


@dataclass(frozen=True)
class Check:
    """Rules on the rows of one query of one database, which sees one moment of it.

    The query returns a column `id`. It may use $3, the grace, and $4, the least event id that inboxes must hold.
    """

    kind: Kind
    service: str
    sql: str
    rules: tuple[Rule, ...]

    async def find(self, view: View, ids: Ids = None) -> list[Finding]:
        rules = [rule for rule in self.rules if rule.number in view.numbers]
        if not rules:
            return []
        cases = ", ".join(f"CASE WHEN {rule.violated} THEN {n} END" for n, rule in enumerate(rules))
        rows = await view.databases[self.service].rows(
            f"""
            WITH parameters AS (SELECT $1::uuid[], $2::uuid, $3::interval, $4::uuid)
            SELECT * FROM (
                SELECT *, array_remove(ARRAY[{cases}]::int[], NULL) AS violated FROM ({self.sql}) AS checked
                WHERE ($1::uuid[] IS NULL OR id = ANY($1)) AND id >= $2
            ) AS judged WHERE violated <> '{{}}' ORDER BY id LIMIT $5
            """,
            ids, view.lowest(self.kind), view.grace, view.retained, MOST,
        )  # fmt: skip
        return [
            about(rules[n].number, self.kind, row["id"], rules[n].text.format_map(row))
            for row in rows
            for n in row["violated"]
        ]


Sides = tuple[Mapping[UUID, list[Line]], Mapping[UUID, list[Line]]]
"""What two databases have, by id."""


@dataclass(frozen=True)
class Comparison:
    """Two databases have the same lines about each id. With `subset`, the second one has every id of the first one.

    Low ids that the view leaves out are judged with `of_any_time`.

    The databases are read at different moments. A difference counts once the last of its lines is older than the grace.
    """

    number: int
    kind: Kind
    one: Lines
    other: Lines
    subset: bool = False
    of_any_time: bool = False

    async def find(self, view: View, ids: Ids = None) -> list[Finding]:
        found: list[Finding] = []
        if self.number in view.numbers:
            async for sides in self._read(view, ids):
                found += self._differences(view, sides)
                if len(found) >= MOST:
                    break
        return found

    async def _read(self, view: View, ids: Ids) -> AsyncIterator[Sides]:
        low = LOWEST if self.of_any_time else view.lowest(self.kind)
        if self.subset or ids is not None:
            one = await read(view.databases, self.one, ids, low)
            # The second is read later: what it must hold was there before the first one's lines.
            yield one, await read(view.databases, self.other, ids or [*one], low)
            return
        async for span in differing_spans(view.databases, self.one, self.other, low):
            one = await read(view.databases, self.one, None, *span)
            yield one, await read(view.databases, self.other, None, *span)

    def _differences(self, view: View, sides: Sides) -> Iterator[Finding]:
        one, other = sides
        ids = one.keys() if self.subset else one.keys() | other.keys()
        for id in sorted(ids - set(view.republished)):
            mine, theirs = one.get(id, []), other.get(id, [])
            surplus = Counter(line.text for line in mine)
            surplus.subtract(line.text for line in theirs)
            moments = [line.at for line in (*mine, *theirs) if surplus[line.text]]
            if moments and not (self.subset and theirs):
                yield about(
                    self.number, self.kind, id,
                    f"differs: {self.one.service} has {_words(mine)}, {self.other.service} has {_words(theirs)}",
                    in_flight=view.in_flight(moments),
                )  # fmt: skip


@dataclass(frozen=True)
class WholeCheck:
    """A rule about the whole system, stated in Python."""

    number: int
    violations: Callable[[View], Awaitable[list[str]]]

    async def find(self, view: View, _ids: Ids = None) -> list[Finding]:
        if self.number not in view.numbers:
            return []
        return [Finding(self.number, text) for text in await self.violations(view)]


def _words(lines: list[Line]) -> str:
    counted = sorted(Counter(line.text for line in lines).items())
    return " and ".join(text if n == 1 else f"{n} times {text}" for text, n in counted) or "nothing"
