"""${message}."""

from alembic import context, op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """${message}."""
    role = context.config.get_main_option("role")
    ${upgrades if upgrades else "pass"}
