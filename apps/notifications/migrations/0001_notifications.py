"""Notifications, recipients, and the tables that every service has."""

from chassis.database.migrations import chassis_0001, run

revision = "0001"
down_revision = None
PRIVILEGES = {"recipients, notifications": "SELECT, INSERT, UPDATE"}

SQL = """
CREATE TABLE recipients (
    id uuid PRIMARY KEY,
    email varchar NOT NULL,
    name varchar NOT NULL,
    locale varchar NOT NULL,
    version integer NOT NULL
);
CREATE TABLE notifications (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL,
    order_id uuid,
    kind varchar NOT NULL CHECK (kind IN ('joy', 'sorrow', 'refund', 'message')),
    channel varchar NOT NULL DEFAULT 'email',
    reason varchar,
    amount bigint CHECK (amount > 0),
    balance bigint CHECK (balance >= 0),
    currency varchar,
    address varchar,
    locale varchar,
    subject varchar,
    body varchar,
    status varchar NOT NULL CHECK (status IN ('waiting', 'pending', 'sent', 'failed')),
    attempts integer NOT NULL,
    due_at timestamptz,
    answer varchar,
    created_at timestamptz NOT NULL,
    sent_at timestamptz,
    correlation_id varchar NOT NULL,
    causation_id uuid,
    traceparent varchar,
    decided_at timestamptz,
    correction integer NOT NULL DEFAULT 0,
    CHECK ((kind = 'message') = (order_id IS NULL)),
    CHECK (status = 'waiting' OR num_nulls(address, locale, subject, body) = 0),
    CHECK (status <> 'pending' OR due_at IS NOT NULL),
    CHECK ((status = 'sent') = (sent_at IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
CREATE UNIQUE INDEX notifications_once ON notifications (order_id, correction, channel, (kind = 'refund'))
    WHERE order_id IS NOT NULL;
CREATE INDEX notifications_corrections ON notifications (order_id) WHERE correction > 0;
CREATE INDEX notifications_of_user ON notifications (user_id, id DESC);
CREATE INDEX notifications_open ON notifications (due_at) WHERE status IN ('waiting', 'pending');
CREATE INDEX notifications_waiting ON notifications (user_id) WHERE status = 'waiting';
CREATE INDEX notifications_failed ON notifications (id DESC) WHERE status = 'failed';
"""


def upgrade() -> None:
    """Create everything."""
    chassis_0001.upgrade()
    run(SQL)
