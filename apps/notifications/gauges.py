"""How many letters are open, and for how long: figures that only the table knows."""

import asyncio
from datetime import UTC, datetime
from typing import Final

from prometheus_client import Gauge

from events.bus.transaction import Pool, is_transient

LOOK_SECONDS: Final = 10.0

OPEN = Gauge("chorus_letters_open", "Letters that are neither sent nor failed.", ["status"])
OLDEST = Gauge(
    "chorus_letters_oldest_seconds", "Age of the oldest letter that is still open.", ["status"]
)

COUNT: Final = """
SELECT status, count(*) AS letters, min(created_at) AS oldest FROM letters
WHERE status IN ('waiting', 'pending') GROUP BY status
"""


async def look(pool: Pool) -> None:
    """Count open letters, for as long as the process runs."""
    while True:
        try:
            found = {record["status"]: record for record in await pool.fetch(COUNT)}
        except Exception as error:
            if not is_transient(error):
                raise
        else:
            now = datetime.now(UTC)
            for status in ("waiting", "pending"):
                record = found.get(status)
                age = (now - record["oldest"]).total_seconds() if record else 0.0
                OPEN.labels(status).set(record["letters"] if record else 0)
                OLDEST.labels(status).set(max(age, 0.0))
        await asyncio.sleep(LOOK_SECONDS)
