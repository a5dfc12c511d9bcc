"""How many rows each invariant was evaluated on, so that an audit of nothing is noticed."""

from collections import Counter
from typing import Final

from ops.audit.rules import View

IN_FLIGHT_ORDERS: Final = 0
"""The key of orders that are pending, among the numbers of invariants."""

COUNTS: Final = (
    ("users", "SELECT count(*) FROM users", (7,)),
    ("billing", "SELECT count(*) FROM transfers", (1, 2)),
    ("billing", "SELECT count(*) FROM accounts", (1,)),
    ("billing", "SELECT count(*) FROM charges WHERE order_id >= $1", (4, 7)),
    ("billing", "SELECT count(*) FROM charges WHERE status = 'rejected' AND order_id >= $1", (5,)),
    ("orders", "SELECT count(*) FROM orders WHERE id >= $1", (3, 4)),
    ("orders", "SELECT count(*) FROM orders WHERE status = 'pending' AND id >= $1", (0,)),
    ("notifications", "SELECT count(*) FROM notifications WHERE coalesce(order_id, id) >= $1", (6,)),
)  # fmt: skip
"""Queries by service, with the numbers of the invariants that go through what is counted."""

RECEIVED: Final = "SELECT count(*) FROM inbox WHERE event_id >= $1"


async def counts(view: View) -> Counter[int]:
    """Rows by the invariant's number, and orders that are pending."""
    found: Counter[int] = Counter({8: len(view.databases)})
    for service, sql, numbers in COUNTS:
        values = [view.since] if "$1" in sql else []
        [count] = await view.databases[service].column(sql, *values)
        found.update(dict.fromkeys(numbers, count))
    for database in view.databases.values():
        found[9] += (await database.column(RECEIVED, view.remembered))[0]
    return found
