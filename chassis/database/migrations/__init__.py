"""The tables that every service's database has, and helpers for migrations."""

from alembic import context, op


def run(sql: str) -> None:
    """Run the statements of a script one by one; a semicolon at the end of a line ends each."""
    for statement in sql.split(";\n"):
        if statement.strip():
            op.execute(statement)


def grant(rights: str, *tables: str) -> None:
    """Grant privileges, such as "SELECT, INSERT", on tables to the service's role, which owns none."""
    role = context.config.get_main_option("role")
    assert role is not None
    name = role.replace('"', '""')
    op.get_bind().exec_driver_sql(f'GRANT {rights} ON {", ".join(tables)} TO "{name}"')
