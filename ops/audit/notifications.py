"""Rules on notifications: one for each outcome, to its user, caused by an event that was received."""

from typing import Final

from ops.audit.digests import Lines
from ops.audit.rules import Check, Comparison, Rule

NOTIFICATIONS: Final = Check(
    "notification",
    "notifications",
    """
    SELECT n.id, user_id, causation_id, address, email, version, event_id IS NOT NULL AS received
    FROM notifications n LEFT JOIN recipients r ON r.id = user_id LEFT JOIN inbox ON event_id = causation_id
    """,
    (
        # Former addresses are in no table: of a user who has changed something this cannot be judged.
        Rule(6, "version = 1 AND address <> email", "for user {user_id} has another's address"),
        Rule(9, "causation_id >= $4 AND NOT received",
             "was caused by event {causation_id}, which was never received"),
    ),
)  # fmt: skip

OUTCOMES_NOTIFIED: Final = Comparison(
    6,
    "order",
    Lines("billing", """
        SELECT order_id AS id, ROW(kind, amount, user_id)::text AS line,
            CASE kind WHEN 'refund' THEN refunded_at ELSE created_at END AS at
        FROM charges JOIN (VALUES ('paid', 'joy'), ('refunded', 'joy'), ('refunded', 'refund'), ('rejected', 'sorrow'))
            AS due (status, kind) USING (status)"""),
    Lines("notifications", """
        SELECT order_id AS id, ROW(kind, amount, user_id)::text AS line, created_at AS at FROM notifications
        WHERE order_id IS NOT NULL"""),
)  # fmt: skip
"""Each decision of billing has one notification of its kind, with the amount, for the user."""
