"""What each service's login may not do in PostgreSQL, asked with that login."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from apps import SERVICES
from tests.support.fixtures import Install
from tests.support.installation import Installation

OWNED = """
SELECT 'relation ' || relname FROM pg_class WHERE relowner = $1::regrole
UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE proowner = $1::regrole
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspowner = $1::regrole
UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typowner = $1::regrole
UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datdba = $1::regrole
UNION ALL SELECT 'large object ' || oid FROM pg_largeobject_metadata WHERE lomowner = $1::regrole
"""
ATTRIBUTES = """
SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
    EXISTS (SELECT FROM pg_auth_members WHERE member = $1::regrole) AS is_member
FROM pg_roles WHERE oid = $1::regrole
"""
CREATABLE = "SELECT nspname FROM pg_namespace WHERE has_schema_privilege(oid, 'CREATE')"
CONNECTABLE = """
SELECT datname FROM pg_database WHERE datallowconn AND has_database_privilege(oid, 'CONNECT')
"""

STATEMENTS = {
    "make a large object": "SELECT lo_create(0)",
    "make one of an older form": "SELECT lo_creat(-1)",
    "make one of bytes": "SELECT lo_from_bytea(0, 'x')",
    "import a file": "SELECT lo_import('/etc/passwd')",
    "read a file": "SELECT pg_read_file('/etc/passwd')",
    "list a folder": "SELECT pg_ls_dir('.')",
    "copy from a file": "COPY signing_keys FROM '/etc/passwd'",
    "copy to a program": "COPY signing_keys TO PROGRAM 'true'",
    "become the owner": "SET ROLE postgres",
    "make a temporary table": "CREATE TEMPORARY TABLE mine (id integer)",
    "make an extension": "CREATE EXTENSION dblink",
    "make triggers silent": "SET session_replication_role = replica",
    "change the audit trail": "UPDATE operator_actions SET reason = ''",
    "delete from the audit trail": "DELETE FROM operator_actions",
    "empty the audit trail": "TRUNCATE operator_actions",
    "change the event log": "UPDATE event_log SET cloudevents = ''",
    "delete from the event log": "DELETE FROM event_log",
    "empty the event log": "TRUNCATE event_log",
}


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    """All four services' databases."""
    return await install_chorus("privileges")


@pytest.fixture
async def login(
    chorus: Installation, service: str
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(chorus.database_url(service))
    yield connection
    await connection.close()


@pytest.mark.parametrize("service", SERVICES)
class TestLogin:
    async def test_it_owns_nothing_and_belongs_to_no_other_role(
        self, chorus: Installation, service: str, login: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        role = chorus.login(service)
        assert await login.fetch(OWNED, role) == []
        [attributes] = await login.fetch(ATTRIBUTES, role)
        assert not any(attributes.values()), attributes

    async def test_it_creates_nothing_in_any_schema(
        self, service: str, login: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        assert await login.fetch(CREATABLE) == []

    async def test_it_connects_to_its_own_database_alone(
        self, chorus: Installation, service: str, login: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        assert [row["datname"] for row in await login.fetch(CONNECTABLE)] == [chorus.login(service)]
        for other in ("postgres", "template1"):
            url = chorus.database_url(service).rpartition("/")[0] + "/" + other
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.connect(url)

    @pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS.keys())
    async def test_it_may_not(
        self, service: str, login: "asyncpg.Connection[asyncpg.Record]", statement: str
    ) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute(statement)
