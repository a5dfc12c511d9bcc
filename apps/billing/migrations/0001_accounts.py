"""Accounts, charges, transfers, holders, and the tables of every service."""

from chassis.database.migrations import chassis_0001, run

revision = "0001"
down_revision = None
# It may append to the ledger, but not change it.
PRIVILEGES = {
    "holders, accounts, charges": "SELECT, INSERT, UPDATE",
    "transfers": "SELECT, INSERT",
    "ledger_entries": "SELECT",
}

SQL = """
CREATE TABLE holders (
    id uuid PRIMARY KEY,
    version integer NOT NULL
);
CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL UNIQUE,
    balance bigint NOT NULL CHECK (balance BETWEEN 0 AND 1e17),
    version integer NOT NULL,
    opened_at timestamptz NOT NULL,
    net_deposits bigint NOT NULL DEFAULT 0 CHECK (net_deposits BETWEEN 0 AND 1e17)
) WITH (fillfactor = 70);
CREATE TABLE transfers (
    id uuid PRIMARY KEY,
    kind varchar NOT NULL CHECK (kind IN ('deposit', 'withdrawal', 'payment', 'refund')),
    debit_account uuid NOT NULL,
    credit_account uuid NOT NULL CHECK (credit_account <> debit_account),
    amount bigint NOT NULL CHECK (amount > 0),
    account_id uuid NOT NULL REFERENCES accounts,
    account_version integer NOT NULL,
    balance bigint NOT NULL CHECK (balance BETWEEN 0 AND 1e17),
    order_id uuid,
    created_at timestamptz NOT NULL,
    CHECK (account_id IN (debit_account, credit_account)),
    UNIQUE (account_id, account_version)
);
CREATE UNIQUE INDEX transfers_once_per_order ON transfers (order_id, kind) WHERE order_id IS NOT NULL;
CREATE TABLE charges (
    order_id uuid PRIMARY KEY,
    payment_id uuid NOT NULL UNIQUE,
    user_id uuid NOT NULL,
    account_id uuid NOT NULL REFERENCES accounts,
    amount bigint NOT NULL CHECK (amount > 0),
    status varchar NOT NULL CHECK (status IN ('paid', 'rejected', 'refunded', 'cancelled')),
    reason varchar,
    balance bigint NOT NULL,
    account_version integer NOT NULL,
    refund_id uuid UNIQUE,
    created_at timestamptz NOT NULL,
    refunded_at timestamptz
);
CREATE VIEW ledger_entries AS
    SELECT id AS transaction_id, debit_account AS account_id, -amount AS amount, kind, created_at FROM transfers
    UNION ALL
    SELECT id, credit_account, amount, kind, created_at FROM transfers;
"""


def upgrade() -> None:
    """Create all tables."""
    chassis_0001.upgrade()
    run(SQL)
