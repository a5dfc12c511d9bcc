"""`chorus migrate` gives each service's login the privileges of its migrations, whatever they were before."""

import asyncio
import os
import sys

import asyncpg
import pytest

from apps import SERVICES
from ops.migrate import upgrade_database
from tests.support.fixtures import Install
from tests.support.installation import Installation

PRIVILEGES = """
SELECT name, coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC'), privilege_type FROM (
    SELECT relname::text AS name, coalesce(relacl, acldefault('r', relowner)) AS acl FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
    UNION ALL SELECT oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT nspname::text, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace
        WHERE nspname = 'public'
) AS object, aclexplode(acl) ORDER BY 1, 2, 3
"""

EARLIER = {
    "none": (
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM {role}",
    ),
    # pg_restore --no-privileges leaves a server's defaults, which PostgreSQL 14 had others of.
    "the defaults of a server": (
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM {role}",
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
    ),
    "all": (
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}, PUBLIC",
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC",
    ),
}


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    """All four services' databases."""
    return await install_chorus("grants")


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("earlier", EARLIER)
async def test_privileges_are_those_of_the_migrations(
    chorus: Installation, service: str, earlier: str
) -> None:
    administrator = await asyncpg.connect(chorus.database_admin_url(service))
    try:
        wanted = await administrator.fetch(PRIVILEGES)
        for statement in EARLIER[earlier]:
            await administrator.execute(statement.format(role=f'"{chorus.login(service)}"'))
        assert await administrator.fetch(PRIVILEGES) != wanted

        url = chorus.database_url(service)
        admin_url = chorus.servers.database_admin_url
        await asyncio.to_thread(upgrade_database, admin_url, service, url)

        assert await administrator.fetch(PRIVILEGES) == wanted
    finally:
        await administrator.close()


@pytest.mark.parametrize("new", [False, True], ids=["existing", "new"])
async def test_migrations_at_the_same_time_wait_for_each_other(
    chorus: Installation, *, new: bool
) -> None:
    if new:
        administrator = await asyncpg.connect(chorus.servers.database_admin_url)
        for service in SERVICES:
            await administrator.execute(f'DROP DATABASE "{chorus.login(service)}" WITH (FORCE)')
        await administrator.close()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ops", "migrate", env=inherited | chorus.environment,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    ended = [await process.communicate() for process in running]
    assert [process.returncode for process in running] == [0] * 4, ended
