"""Alembic's environment for every service: runs as the owner of the service's database."""

import asyncio

from alembic import context
from alembic.operations import Operations
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from chassis.database.migrations import LOCK, chassis_0001, grant, revoke_all


def _migrate(connection: Connection) -> None:
    connection.exec_driver_sql(LOCK)
    connection.commit()  # so that each migration has a transaction of its own
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
    with Operations.context(context.get_context()):
        _set_privileges()


def _set_privileges() -> None:
    """Give the service's role the PRIVILEGES of the revisions, privileges by tables, and nothing else.

    This is done at each migration: a database may have been restored without its privileges. It is one transaction, so
    services that run keep theirs.
    """
    revoke_all()
    chassis_0001.grant_all()
    for revision in reversed(list(context.script.walk_revisions())):
        for tables, rights in getattr(revision.module, "PRIVILEGES", {}).items():
            grant(rights, tables)


async def _run() -> None:
    connect = context.config.attributes["connect"]
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
        await connection.commit()
    await engine.dispose()


asyncio.run(_run())
