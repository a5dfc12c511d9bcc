"""Orders, customers, and the tables of every service."""

from chassis.database.migrations import chassis_0001, run

revision = "0001"
down_revision = None
PRIVILEGES = {"customers, orders": "SELECT, INSERT, UPDATE"}

SQL = """
CREATE TABLE customers (
    id uuid PRIMARY KEY,
    version integer NOT NULL
);
CREATE TABLE orders (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    total bigint NOT NULL CHECK (total BETWEEN 1 AND 1e14),
    currency varchar NOT NULL,
    status varchar NOT NULL CHECK (status IN ('pending', 'paid', 'rejected', 'cancelled')),
    reason varchar,
    placed_at timestamptz NOT NULL,
    settled_at timestamptz,
    refunded_at timestamptz,
    version integer NOT NULL,
    decided_at timestamptz,
    corrections integer NOT NULL DEFAULT 0
) WITH (fillfactor = 80);
CREATE INDEX orders_of_user ON orders (user_id, id DESC);
"""


def upgrade() -> None:
    """Create all tables."""
    chassis_0001.upgrade()
    run(SQL)
