"""Metrics of open notifications, which only the table knows."""

from datetime import UTC, datetime
from typing import Final

from prometheus_client import Gauge

from chassis.database.transaction import Pool

OPEN = Gauge(
    "chorus_notifications_open", "Notifications that are neither sent nor failed.", ["status"]
)
OLDEST = Gauge(
    "chorus_notifications_oldest_seconds",
    "Age of the oldest notification that is open.",
    ["status"],
)

COUNT: Final = """
SELECT status, count(*) AS open, min(created_at) AS oldest FROM notifications
WHERE status IN ('waiting', 'pending') GROUP BY status
"""


async def measure(pool: Pool) -> None:
    """Count open notifications, and set the gauges."""
    found = {record["status"]: record for record in await pool.fetch(COUNT)}
    now = datetime.now(UTC)
    for status in ("waiting", "pending"):
        record = found.get(status)
        age = (now - record["oldest"]).total_seconds() if record else 0.0
        OPEN.labels(status).set(record["open"] if record else 0)
        OLDEST.labels(status).set(max(age, 0.0))
