"""The migrations create exactly the tables that the models declare."""

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Column, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from apps import SERVICES
from ops.migrate import upgrade_database
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tests.support.tables import tables_of

WITHOUT_MODEL = {"alembic_version", "write_check"}
"""No use case reads or writes them."""

COLUMNS = """
SELECT c.relname AS table, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND a.attnum > 0 AND NOT a.attisdropped
"""
KEYS = """
SELECT conrelid::regclass::text AS table, contype::text AS type, array_agg(a.attname::text ORDER BY place) AS columns
FROM pg_constraint JOIN pg_class c ON c.oid = conrelid AND NOT relispartition,
    unnest(conkey) WITH ORDINALITY AS key(number, place)
    JOIN pg_attribute a ON a.attnum = key.number
WHERE a.attrelid = conrelid AND connamespace = 'public'::regnamespace AND contype IN ('p', 'u')
GROUP BY conrelid, conname, contype
"""
DESCRIPTION = """
SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
    SELECT pg_get_indexdef(indexrelid) AS line FROM pg_index JOIN pg_class c ON c.oid = indrelid
        WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT table_name || ' ' || grantee || ' ' || privilege_type
        FROM information_schema.role_table_grants WHERE table_schema = 'public'
    UNION ALL SELECT table_name || '.' || column_name FROM information_schema.columns
        WHERE table_schema = 'public') AS lines
"""
NAMES = {"VARCHAR": "character varying"}


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    """All four services' databases."""
    return await install_chorus("migrated")


async def ask(chorus: Installation, service: str, sql: str) -> list[Any]:
    connection = await asyncpg.connect(chorus.database_admin_url(service))
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_every_column_is_as_in_its_model(chorus: Installation, service: str) -> None:
    found = {
        (row["table"], row["name"]): (row["type"], row["nullable"])
        for row in await ask(chorus, service, COLUMNS)
        if row["table"] not in WITHOUT_MODEL
    }
    declared = {
        (name, column.name): (_type(column), column.nullable)
        for name, table in tables_of(service).items()
        for column in table.columns
    }
    assert found == declared


@pytest.mark.parametrize("service", SERVICES)
async def test_every_key_is_as_in_its_model(chorus: Installation, service: str) -> None:
    found = {
        (row["table"], row["type"], tuple(row["columns"]))
        for row in await ask(chorus, service, KEYS)
        if row["table"] not in WITHOUT_MODEL
    }
    declared = {(name, *key) for name, table in tables_of(service).items() for key in _keys(table)}
    assert declared - found == set()
    assert {key for key in found if key[1] == "p"} == {key for key in declared if key[1] == "p"}


@pytest.mark.parametrize("service", SERVICES)
async def test_migrating_again_changes_nothing(chorus: Installation, service: str) -> None:
    [before] = await ask(chorus, service, DESCRIPTION)
    admin_url = chorus.servers.database_admin_url
    url = chorus.database_url(service)
    await asyncio.to_thread(upgrade_database, admin_url, service, url)
    [after] = await ask(chorus, service, DESCRIPTION)
    assert before == after
    assert f"outbox {chorus.login(service)} DELETE" in after[0]


def _type(column: Column[Any]) -> str:
    text = str(column.type.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    kind, bracket, length = text.partition("(")
    return NAMES.get(kind, kind.lower()) + bracket + length


def _keys(table: Table) -> list[tuple[str, tuple[str, ...]]]:
    unique = [c.columns for c in table.constraints if isinstance(c, UniqueConstraint)]
    return [
        ("p", tuple(column.name for column in table.primary_key)),
        *(("u", tuple(column.name for column in columns)) for columns in unique),
    ]
