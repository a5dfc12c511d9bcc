"""Revision 0001 of the tables that every service has: outbox, inbox, idempotency keys, signing keys.

The first migration of each service calls it. Like any migration it never changes once it has been applied.
"""

from chassis.database.migrations import grant, run

SQL = """
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    exchange varchar NOT NULL,
    routing_key varchar NOT NULL,
    occurred_at timestamptz NOT NULL,
    cloudevent varchar NOT NULL,
    retry_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE TABLE inbox (
    event_id uuid PRIMARY KEY,
    received_at timestamptz NOT NULL
);
CREATE INDEX inbox_received_at ON inbox USING brin (received_at);
CREATE TABLE idempotency_keys (
    user_id uuid,
    key varchar,
    fingerprint varchar NOT NULL,
    status integer,
    body varchar,
    location varchar,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys USING brin (created_at);
CREATE TABLE signing_keys (
    key_id varchar PRIMARY KEY,
    x varchar NOT NULL,
    valid_until timestamptz NOT NULL
);
"""


def upgrade() -> None:
    """Create the tables and grant the service's role access."""
    run(SQL)
    grant("SELECT, INSERT, UPDATE, DELETE", "outbox", "inbox", "idempotency_keys")
    grant("SELECT, INSERT, DELETE", "signing_keys")
