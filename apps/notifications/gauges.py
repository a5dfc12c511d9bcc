"""Metrics of open notifications, which only the table knows."""

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
SELECT status, count(id) AS open, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS age
FROM unnest(ARRAY['waiting', 'pending']) AS status
LEFT JOIN (SELECT * FROM notifications WHERE status IN ('waiting', 'pending')) AS unfinished USING (status)
GROUP BY status
"""


async def measure(pool: Pool) -> None:
    """Count open notifications, and set the gauges."""
    for status, count, age in await pool.fetch(COUNT):
        OPEN.labels(status).set(count)
        OLDEST.labels(status).set(max(age, 0.0))
