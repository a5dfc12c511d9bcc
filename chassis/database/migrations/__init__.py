"""The tables that every service's database has, and helpers for migrations."""

from typing import Final

from alembic import context, op

LOCK: Final = "SELECT pg_advisory_lock(4242001)"
"""Held, until the connection ends, while tables, roles or privileges change: PostgreSQL refuses two changes of the same
row of its catalog at a time. A lock is one database's; roles and databases change under the administrator's."""


def run(sql: str) -> None:
    """Run the statements of a script one by one; a semicolon at the end of a line ends each."""
    for statement in sql.split(";\n"):
        if statement.strip():
            op.execute(statement)


def revoke_all() -> None:
    """Revoke the privileges on tables that the service's role and everybody have."""
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
