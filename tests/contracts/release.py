"""What the previous release asks of its databases: tables, rights and statements, frozen in `previous/<service>.json`.

Processes of the previous release run while a migration is applied, and after it until the last of them is replaced.
Their code is not at hand, but what it says to PostgreSQL is: `python -m tests.contracts.release`, run when a release is
made, writes it down from a freshly migrated database and from the code.
"""

import asyncio
import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg

from apps import SERVICES
from chassis.database.tables import Table, statements
from ops.migrate import create_database, upgrade_database
from tests.support.tables import models_of
from tools.servers import PrivatePostgres, private_server

FOLDER: Final = Path(__file__).parent / "previous"

Release = dict[str, Any]
"""`columns`: "table.column" -> its type, perhaps ", nullable", perhaps ", default". `grants`: "table PRIVILEGE".
`statements`: what the code asks."""

COLUMNS: Final = """
SELECT c.relname || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN '' ELSE ', nullable' END
    || CASE WHEN a.atthasdef OR a.attidentity <> '' THEN ', default' ELSE '' END AS described
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
    AND c.relname <> 'alembic_version'
ORDER BY 1
"""
GRANTS: Final = """
SELECT table_name || ' ' || privilege_type AS granted FROM information_schema.role_table_grants
WHERE table_schema = 'public' AND grantee = $1 ORDER BY 1
"""
_STATEMENT: Final = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\b")


def previous(service: str) -> Release:
    """The previous release of a service."""
    release: Release = json.loads((FOLDER / f"{service}.json").read_text())
    return release


async def schema(connection: "asyncpg.Connection[asyncpg.Record]", role: str) -> Release:
    """The tables of a database, and what a role may do with them."""
    return {
        "columns": {row["name"]: row["described"] for row in await connection.fetch(COLUMNS)},
        "grants": [row["granted"] for row in await connection.fetch(GRANTS, role)],
    }


def asked(service: str) -> list[str]:
    """What the code of a service asks: the statements of its tables, and those that stand in it as constants."""
    found = {sql for table in models_of(service) for sql in _of_table(table)}
    for module in _modules(service):
        texts = [value for value in vars(module).values() if isinstance(value, str)]
        found |= {text.strip() for text in texts if _STATEMENT.match(text)}
    return sorted(found)


def _of_table(table: type[Table]) -> Iterator[str]:
    made = statements(table)
    yield made.select(made.primary_key[0], lock=False)
    yield made.insert()
    yield made.insert_new()
    if "version" in made.columns:
        yield made.upsert_newer()


def _modules(service: str) -> Iterator[Any]:
    for name in ("chassis", f"apps.{service}"):
        package = importlib.import_module(name)
        for found in pkgutil.iter_modules(package.__path__, f"{name}."):
            if not found.ispkg:
                yield importlib.import_module(found.name)


def breaks(before: Release, now: Release) -> list[str]:
    """What of the previous release would fail on these tables, a line each; empty if nothing."""
    old, new = ({n: d.split(", ") for n, d in r["columns"].items()} for r in (before, now))
    found = []
    for name, (kind, *options) in old.items():
        if name not in new:
            found.append(f"{name} is gone")
        elif new[name][0] != kind:
            found.append(f"{name} was {kind}, is {new[name][0]}")
        else:
            found += [
                f"{name} is not {option} any more" for option in options if option not in new[name]
            ]
    known = {name.partition(".")[0] for name in old}
    for name in new.keys() - old.keys():
        if name.partition(".")[0] in known and len(new[name]) == 1:
            found.append(f"{name} is new and must be given")
    return found + [f"no right any more: {g}" for g in before["grants"] if g not in now["grants"]]


async def _release(admin_url: str, service: str) -> Release:
    url = admin_url.rpartition("/")[0] + f"/{service}"
    own = re.sub(r"//[^@]*@", f"//{service}:not-a-secret@", url)
    await create_database(admin_url, own)
    await asyncio.to_thread(upgrade_database, admin_url, service, own)
    connection = await asyncpg.connect(url)
    try:
        return await schema(connection, service) | {"statements": asked(service)}
    finally:
        await connection.close()


def main() -> None:
    """Write down this release as the previous one."""
    with private_server(PrivatePostgres) as server:
        for service in SERVICES:
            release = asyncio.run(_release(server.url, service))
            text = json.dumps(release, indent=1, sort_keys=True)
            (FOLDER / f"{service}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
