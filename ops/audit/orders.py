"""Rules on orders: each has one outcome, which is what billing decided."""

from typing import Final

from ops.audit.digests import Lines
from ops.audit.rules import Check, Comparison, Rule

OUTCOMES: Final = Check(
    "order",
    "orders",
    "SELECT id, status, placed_at, settled_at, refunded_at, version FROM orders",
    (
        Rule(3, "status = 'pending' AND placed_at NOT BETWEEN now() - $3::interval AND now() + $3::interval",
             "is pending since {placed_at:%Y-%m-%d %H:%M:%S}"),
        Rule(3, "(status = 'pending') <> (settled_at IS NULL) OR NOT CASE status WHEN 'pending' THEN version = 1"
             " WHEN 'cancelled' THEN version IN (2, 3) ELSE version = 2 END",
             "is {status} in version {version}, settled at {settled_at}"),
        Rule(3, "refunded_at IS NOT NULL AND status <> 'cancelled'",
             "is {status} and was refunded"),
    ),
)  # fmt: skip
"""An outcome is one step, a new version; only a paid order may take a second one, when it is cancelled."""

DECISIONS: Final = Comparison(
    4,
    "order",
    Lines("orders", """
        SELECT id, ROW(CASE WHEN status = 'paid' THEN 'paid' WHEN refunded_at IS NOT NULL THEN 'refunded'
            ELSE 'not paid' END, total, user_id)::text AS line, greatest(placed_at, settled_at, refunded_at) AS at
        FROM orders WHERE status <> 'pending'"""),
    Lines("billing", """
        SELECT order_id AS id, ROW(CASE status WHEN 'rejected' THEN 'not paid' ELSE status END, amount, user_id)::text
            AS line, greatest(created_at, refunded_at) AS at FROM charges"""),
)  # fmt: skip
"""An order and its charge agree: paid, refunded, or not paid, with the same amount of the same user."""

CHARGED_ORDERS: Final = Comparison(
    7,
    "order",
    Lines("billing", """
        SELECT order_id AS id, ROW(amount, user_id)::text AS line, created_at AS at FROM charges"""),
    Lines("orders", """
        SELECT id, ROW(total, user_id)::text AS line, greatest(placed_at, settled_at) AS at FROM orders
        WHERE status <> 'pending'"""),
)  # fmt: skip
"""Billing knows each decided order as its owner does."""

CANCELLED_REFUSALS: Final = Comparison(
    5,
    "order",
    Lines("billing", """
        SELECT order_id AS id, 'refused it as cancelled' AS line, NULL::timestamptz AS at FROM charges
        WHERE status = 'rejected' AND reason = 'order_cancelled'"""),
    Lines("orders", """
        SELECT id, 'cancelled it' AS line, NULL::timestamptz AS at FROM orders WHERE status = 'cancelled'"""),
    subset=True,
)  # fmt: skip
"""What billing refused because of a cancellation was cancelled before."""
