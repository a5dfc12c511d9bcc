"""Budgets: what was charged to clients and accounts for attempts."""

from chassis.database.migrations import run

revision = "0004"
down_revision = "0003"
PRIVILEGES = {"budgets": "SELECT, INSERT, UPDATE, DELETE"}

SQL = """
CREATE TABLE budgets (
    key bytea PRIMARY KEY CHECK (length(key) = 32),
    charged_until timestamptz NOT NULL
);
CREATE INDEX budgets_by_end ON budgets (charged_until);
ALTER TABLE budgets SET UNLOGGED;
COMMENT ON TABLE budgets IS 'Unlogged: an attempt waits for no disk, and a crash of the server refills all.';
"""


def upgrade() -> None:
    """Create the table."""
    run(SQL)
