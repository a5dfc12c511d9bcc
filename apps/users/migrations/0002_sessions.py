"""Sessions: one row for each login whose refresh token may still be used."""

from chassis.database.migrations import run

revision = "0002"
down_revision = "0001"
PRIVILEGES = {"sessions": "SELECT, INSERT, UPDATE, DELETE"}

SQL = """
CREATE TABLE sessions (
    family bytea PRIMARY KEY CHECK (length(family) = 32),
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    token bytea NOT NULL CHECK (length(token) = 32),
    previous bytea CHECK (length(previous) = 32),
    rotated_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_of_user ON sessions (user_id);
CREATE INDEX sessions_by_end ON sessions (expires_at);
"""


def upgrade() -> None:
    """Create the table."""
    run(SQL)
