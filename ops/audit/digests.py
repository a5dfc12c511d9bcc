"""Compares what two databases say of the same things without carrying it over: digests first, rows where they differ.

Each side says a line of text about each id. Lines are hashed and summed over everything whose ids begin alike; ids are
UUIDv7, so that is a span of time. Spans that differ are divided, down to single lines. Where all agrees, a million
lines cost one pass over each table and a few hundred rows of traffic.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple
from uuid import UUID

from ops.audit.databases import Databases

SPANS: Final = (7, 10, 12)
"""Characters of an id's text that name a span: 17 minutes, 4 seconds, 16 milliseconds."""

FEW: Final = 2_000
"""A span with fewer lines than this is not divided further."""

LOWEST: Final = UUID(int=0)
HIGHEST: Final = UUID(int=2**128 - 1)

HASH: Final = "hashtextextended(id || line, 0)"
"""64 bits, in a third of MD5's time; of the id as well, so that lines that changed places do not cancel out.
Servers that hash differently would only have more looked at."""


class Lines(NamedTuple):
    """One side: a query of a service's database for ids and lines, as columns `id` and `line`."""

    service: str
    sql: str


async def differing(
    databases: Databases, one: Lines, other: Lines, since: UUID, most: int
) -> list[UUID]:
    """Ids from `since` on, about which the two say different lines: up to `most` and some, the lowest first."""
    found: list[UUID] = []
    async for low, high in _spans(databases, (one, other), since, HIGHEST, SPANS):
        lines = await asyncio.gather(
            *(_hashes(databases, side, low, high) for side in (one, other))
        )
        found += sorted({id for id, _ in set(lines[0]) ^ set(lines[1])})
        if len(found) >= most:
            break
    return found


async def _spans(
    databases: Databases,
    sides: tuple[Lines, Lines],
    low: UUID,
    high: UUID,
    lengths: tuple[int, ...],
) -> AsyncIterator[tuple[UUID, UUID]]:
    """Spans that differ and are small enough to be looked at line by line, in order."""
    sums = await asyncio.gather(
        *(_digests(databases, side, low, high, lengths[0]) for side in sides)
    )
    for prefix in sorted({prefix for prefix, _ in set(sums[0].items()) ^ set(sums[1].items())}):
        begin, end = max(low, _padded(prefix, "0")), min(high, _padded(prefix, "f"))
        lines = max(side[prefix][0] if prefix in side else 0 for side in sums)
        if lines < FEW or len(lengths) == 1:
            yield begin, end
        else:
            async for span in _spans(databases, sides, begin, end, lengths[1:]):
                yield span


async def _digests(
    databases: Databases, side: Lines, low: UUID, high: UUID, length: int
) -> dict[str, tuple[int, int]]:
    rows = await databases[side.service].rows(
        f"SELECT left(id::text, $3) AS span, count(*) AS lines, sum({HASH})::text AS digest"
        f" FROM ({side.sql}) AS said WHERE id BETWEEN $1 AND $2 GROUP BY 1",
        low, high, length,
    )  # fmt: skip
    return {row["span"]: (row["lines"], int(row["digest"])) for row in rows}


async def _hashes(
    databases: Databases, side: Lines, low: UUID, high: UUID
) -> list[tuple[UUID, int]]:
    rows = await databases[side.service].rows(
        f"SELECT id, sum({HASH})::text AS digest FROM ({side.sql}) AS said WHERE id BETWEEN $1 AND $2 GROUP BY 1",
        low, high,
    )  # fmt: skip
    return [(row["id"], int(row["digest"])) for row in rows]


def _padded(prefix: str, digit: str) -> UUID:
    digits = prefix.replace("-", "")
    return UUID(digits.ljust(32, digit))
