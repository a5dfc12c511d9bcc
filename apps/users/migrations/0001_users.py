"""Users, key pairs, and the tables of every service."""

from chassis.database.migrations import chassis_0001, run

revision = "0001"
down_revision = None
PRIVILEGES = {
    "users": "SELECT, INSERT, UPDATE",
    "key_pairs": "SELECT, INSERT, UPDATE, DELETE",
}

SQL = """
CREATE TABLE users (
    id uuid PRIMARY KEY,
    email varchar NOT NULL UNIQUE CHECK (email = lower(email)),
    password_hash varchar NOT NULL,
    name varchar NOT NULL,
    locale varchar NOT NULL CHECK (locale IN ('en', 'ru')),
    role varchar NOT NULL CHECK (role IN ('user', 'operator')),
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TABLE key_pairs (
    key_id varchar PRIMARY KEY,
    private_key bytea NOT NULL CHECK (length(private_key) = 32),
    valid_until timestamptz NOT NULL,
    published_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    """Create all tables."""
    chassis_0001.upgrade()
    run(SQL)
