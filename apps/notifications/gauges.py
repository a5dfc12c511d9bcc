"""How many letters are open, and for how long: figures that only the table knows."""

from datetime import UTC, datetime
from typing import Final

from prometheus_client import Gauge

from chassis.database.transaction import Pool

OPEN = Gauge("chorus_notifications_open", "Letters that are neither sent nor failed.", ["status"])
OLDEST = Gauge(
    "chorus_notifications_oldest_seconds",
    "Age of the oldest letter that is still open.",
    ["status"],
)

COUNT: Final = """
SELECT status, count(*) AS letters, min(created_at) AS oldest FROM notifications
WHERE status IN ('waiting', 'pending') GROUP BY status
"""


async def measure(pool: Pool) -> None:
    """Count open letters."""
    found = {record["status"]: record for record in await pool.fetch(COUNT)}
    now = datetime.now(UTC)
    for status in ("waiting", "pending"):
        record = found.get(status)
        age = (now - record["oldest"]).total_seconds() if record else 0.0
        OPEN.labels(status).set(record["letters"] if record else 0)
        OLDEST.labels(status).set(max(age, 0.0))
