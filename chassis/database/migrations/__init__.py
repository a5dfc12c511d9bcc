"""The tables that every service's database has, and helpers for migrations."""

from alembic import context, op


def run(sql: str) -> None:
    """Run the statements of a script one by one; a semicolon at the end of a line ends each."""
    for statement in sql.split(";\n"):
        if statement.strip():
            op.execute(statement)


def revoke_all() -> None:
    """Revoke the privileges on tables that the service's role and everybody have."""
    # Until the transaction ends: two that change the privileges of a table at the same time would fail.
    _execute("SELECT pg_advisory_xact_lock(4242002)")
    _execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {_role()}, PUBLIC")


def grant(rights: str, tables: str) -> None:
    """Grant privileges, such as "SELECT, INSERT", on tables to the service's role, which owns none."""
    _execute(f"GRANT {rights} ON {tables} TO {_role()}")


def _role() -> str:
    role = context.config.get_main_option("role")
    assert role is not None
    return '"' + role.replace('"', '""') + '"'


def _execute(sql: str) -> None:
    op.get_bind().exec_driver_sql(sql)
