"""The role of those who may see everything and change nothing."""

from chassis.database.migrations import run

revision = "0003"
down_revision = "0002"

SQL = """
ALTER TABLE users DROP CONSTRAINT users_role_check;
ALTER TABLE users ADD CONSTRAINT users_role_check CHECK (role IN ('user', 'viewer', 'operator'));
"""


def upgrade() -> None:
    """Allow the role."""
    run(SQL)
