"""Rules on what services have in common: orders and charges, notifications of outcomes, copies of users and keys."""

from collections.abc import Sequence
from functools import partial
from typing import Final, cast

from apps import SERVICES
from apps.notifications.models import ADDRESSES
from chassis.web.auth import SigningKey
from ops.audit.digests import Lines
from ops.audit.findings import Kind
from ops.audit.rules import Check, Comparison, Rule, Source, View, WholeCheck
from ops.projections import PROJECTIONS, Projection

OUTCOMES: Final = Check(
    "order",
    "orders",
    "SELECT id, status, placed_at, settled_at, refunded_at, version, corrections FROM orders",
    (
        Rule(3, "status = 'pending' AND placed_at NOT BETWEEN now() - $3::interval AND now() + $3::interval",
             "is pending since {placed_at:%Y-%m-%d %H:%M:%S}"),
        Rule(3, "(status = 'pending') <> (settled_at IS NULL) OR NOT CASE status WHEN 'pending' THEN version = 1"
             " WHEN 'cancelled' THEN version - corrections IN (2, 3) ELSE version - corrections = 2 END",
             "is {status} in version {version}, settled at {settled_at}"),
        Rule(3, "refunded_at IS NOT NULL AND status <> 'cancelled'",
             "is {status} and was refunded"),
    ),
)  # fmt: skip
"""An outcome is one step, a new version; only a paid order may take a second one, when it is cancelled.

Billing may decide anew after its database was restored: each correction is a version more."""

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
"""What billing refused as cancelled was cancelled before."""

KNOWN_ADDRESS: Final = " ".join(
    f"WHEN '{name}' THEN r.{column}" for name, column in ADDRESSES.items()
)

NOTIFICATIONS: Final = Check(
    "notification",
    "notifications",
    f"""
    SELECT n.id, user_id, causation_id, address, CASE channel {KNOWN_ADDRESS} END AS known, version,
        i.id IS NOT NULL AS received
    FROM notifications n LEFT JOIN recipients r ON r.id = user_id
        LEFT JOIN inbox i ON i.id = event_group(causation_id) AND members & event_member(causation_id) <> 0
    """,
    (
        # Former addresses are in no table: of a user who has changed something this cannot be judged.
        Rule(6, "version = 1 AND address <> known", "for user {user_id} has another's address"),
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
        SELECT order_id AS id, ROW(kind, amount, user_id)::text AS line, created_at AS at
        FROM notifications LEFT JOIN (
            SELECT order_id, max(correction) AS last FROM notifications WHERE correction > 0 GROUP BY 1
        ) AS corrected USING (order_id)
        WHERE order_id IS NOT NULL AND channel = 'email' AND correction = coalesce(last, 0)"""),
)  # fmt: skip
"""Each decision of billing has one notification of its kind by e-mail, with the amount, for the user.

What a later notification has corrected does not count."""

KEYS: Final = "SELECT key_id, x FROM signing_keys WHERE valid_until > now()"


def _equal(projection: Projection) -> Comparison:
    line = f"ROW({', '.join(projection.shared)})::text AS line"
    mine = f"SELECT {projection.key} AS id, {line}, NULL::timestamptz AS at FROM {projection.name}"
    owners = (
        f"SELECT {projection.original_key} AS id, {line}, {projection.snapshot.changed_at} AS at"
        f" FROM {projection.originals.table}"
    )
    return Comparison(
        7,
        cast("Kind", projection.snapshot.table.__name__.lower()),
        Lines(projection.service, mine),
        Lines(projection.owner, owners),
    )


COPIES: Final = {one: _equal(one) for one in PROJECTIONS if one.is_copy}
"""Every copy equals the owner's row, in the columns that it has."""


async def _differing_keys(services: Sequence[str], view: View) -> list[str]:
    keys = {
        service: {*await view.databases[service].rows(KEYS)} for service in {*services, "users"}
    }
    return [
        f"{service} knows other signing keys than users does"
        for service in services
        if keys[service] != keys["users"]
    ]


SIGNING_KEYS: Final = WholeCheck(7, partial(_differing_keys, SERVICES))


def equality(projection: Projection) -> Source | None:
    """What compares a projection with its owner's state; None if it keeps more than that."""
    if projection.table is SigningKey:
        return WholeCheck(7, partial(_differing_keys, (projection.service,)))
    return COPIES.get(projection)


CHECKS: Final[tuple[Source, ...]] = (
    OUTCOMES,
    DECISIONS,
    CHARGED_ORDERS,
    CANCELLED_REFUSALS,
    NOTIFICATIONS,
    OUTCOMES_NOTIFIED,
    *COPIES.values(),
    SIGNING_KEYS,
)
