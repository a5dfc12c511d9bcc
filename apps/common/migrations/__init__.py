"""Migrations that every service's database shares, and how a script of several statements is run."""

from alembic import op


def run(sql: str) -> None:
    """Run the statements of a script, each ended by a semicolon at the end of its line: asyncpg takes one at a time."""
    for statement in sql.split(";\n"):
        if statement.strip():
            op.execute(statement)
