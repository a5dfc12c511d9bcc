"""Finds where two databases differ without transferring their rows: digests first, spans of ids where they differ.

Each side returns a line of text about each id. Lines are hashed and summed over all ids with the same prefix; ids are
UUIDv7, so a prefix is a span of time. Spans that differ are divided. Where all agrees, a million lines cost one pass
over each table and a few hundred rows of traffic. This is a filter and states no rule.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from ops.audit.databases import Databases

PREFIXES: Final = (7, 10, 12)
"""Characters of an id's text that name a span: 17 minutes, 4 seconds, 16 milliseconds."""

FEW: Final = 2_000
"""A span with fewer lines than this is not divided further."""

LOWEST: Final = UUID(int=0)
HIGHEST: Final = UUID(int=2**128 - 1)

DIGEST: Final = "sum(hashtextextended(id || line, 0))::text"
"""64 bits per line, in a third of MD5's time; of the id as well, so that exchanged lines do not cancel out.
Servers that hash differently only make more rows be read."""


Ids = Collection[UUID] | None
"""What a query is limited to; None: all."""


class Line(NamedTuple):
    """What one database has about an id, and since when."""

    text: str
    at: datetime | None


class Lines(NamedTuple):
    """One side: a query of a service's database with columns `id`, `line` and `at`, when the line became true."""

    service: str
    sql: str


async def read(
    databases: Databases, side: Lines, ids: Ids, low: UUID, high: UUID = HIGHEST
) -> Mapping[UUID, list[Line]]:
    """One side's lines by id, of ids between two bounds, included."""
    found: dict[UUID, list[Line]] = defaultdict(list)
    for id, text, at in await databases[side.service].rows(
        f"SELECT id, line, at FROM ({side.sql}) AS lines"
        " WHERE ($1::uuid[] IS NULL OR id = ANY($1)) AND id BETWEEN $2 AND $3",
        ids, low, high,
    ):  # fmt: skip
        found[id].append(Line(text, at))
    return found


async def differing_spans(
    databases: Databases,
    one: Lines,
    other: Lines,
    low: UUID,
    high: UUID = HIGHEST,
    prefixes: tuple[int, ...] = PREFIXES,
) -> AsyncIterator[tuple[UUID, UUID]]:
    """Spans of ids, bounds included, in which the two differ and that are small enough to read, in order."""
    sides = await asyncio.gather(
        *(_digests(databases, side, low, high, prefixes[0]) for side in (one, other))
    )
    for prefix in sorted({prefix for prefix, _ in set(sides[0].items()) ^ set(sides[1].items())}):
        span = max(low, _padded(prefix, "0")), min(high, _padded(prefix, "f"))
        lines = max(side[prefix][0] if prefix in side else 0 for side in sides)
        if lines < FEW or len(prefixes) == 1:
            yield span
        else:
            async for part in differing_spans(databases, one, other, *span, prefixes[1:]):
                yield part


async def _digests(
    databases: Databases, side: Lines, low: UUID, high: UUID, length: int
) -> dict[str, tuple[int, str]]:
    rows = await databases[side.service].rows(
        f"SELECT left(id::text, $3) AS prefix, count(*) AS lines, {DIGEST} AS digest"
        f" FROM ({side.sql}) AS lines WHERE id BETWEEN $1 AND $2 GROUP BY 1",
        low, high, length,
    )  # fmt: skip
    return {row["prefix"]: (row["lines"], row["digest"]) for row in rows}


def _padded(prefix: str, digit: str) -> UUID:
    return UUID(prefix.replace("-", "").ljust(32, digit))
