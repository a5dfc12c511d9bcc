"""Migrations that every service's database shares, and the words that migrations are written in."""

from alembic import context, op


def run(sql: str) -> None:
    """Run the statements of a script, each ended by a semicolon at the end of its line: asyncpg takes one at a time."""
    for statement in sql.split(";\n"):
        if statement.strip():
            op.execute(statement)


def grant(rights: str, *tables: str) -> None:
    """Let the service's role, which owns nothing, use tables. `rights` are SQL's: "SELECT, INSERT"."""
    role = context.config.get_main_option("role")
    assert role is not None
    op.execute(f'GRANT {rights} ON {", ".join(tables)} TO "{role}"')
