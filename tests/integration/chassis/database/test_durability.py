"""A service's COMMITs are durable whatever the server's configuration says, or the service does not start."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import stamina

from chassis.database.pool import Database, UnsafeDatabaseError
from chassis.database.transaction import transaction
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.opened import opened
from tools.servers import PrivatePostgres, private_server

COMMITS = 20


@pytest.fixture(scope="module")
def private() -> Iterator[PrivatePostgres]:
    """A server of this file's own: its configuration changes, and it is killed."""
    with private_server(PrivatePostgres) as server:
        yield server


@pytest.fixture
async def server(private: PrivatePostgres) -> AsyncIterator[PrivatePostgres]:
    yield private
    await configure(private)


async def configure(server: PrivatePostgres, **settings: str) -> None:
    """Set these in the server's configuration file, and nothing else."""
    connection = await asyncpg.connect(server.url)
    await connection.execute("ALTER SYSTEM RESET ALL")
    for name, value in settings.items():
        await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await connection.execute("SELECT pg_reload_conf()")

    async def applied() -> None:
        for name, value in settings.items():
            assert await connection.fetchval(f"SHOW {name}") == value

    await eventually(applied)
    await connection.close()


class TestSynchronousCommit:
    async def test_commits_outlast_a_kill_of_a_server_that_is_configured_not_to_wait(
        self, server: PrivatePostgres
    ) -> None:
        await configure(server, synchronous_commit="off", wal_writer_delay="10s")
        database = Database(server.url, "orders", size=1)
        await database.open()
        async with transaction(database.pool) as tx:
            await tx.execute("CREATE TABLE committed (number int)")
        for number in range(COMMITS):
            async with transaction(database.pool) as tx:
                await tx.execute("INSERT INTO committed VALUES ($1)", number)
        await asyncio.to_thread(server.kill)
        database.abandon()
        await asyncio.to_thread(server.start)
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT count(*) FROM committed") == COMMITS
        await connection.close()

    async def test_sessions_do_not_take_over_what_is_set_for_their_role_or_database(
        self, install_chorus: Install
    ) -> None:
        chorus = await install_chorus("hasty", "orders")
        login = chorus.login("orders")
        async with opened(chorus, "orders") as (_, owner):
            await owner.execute(f"ALTER ROLE {login} SET synchronous_commit = off")
            await owner.execute(f"ALTER DATABASE {login} SET synchronous_commit = off")
        async with opened(chorus, "orders") as (database, _):
            assert await database.pool.fetchval("SHOW synchronous_commit") == "on"


class TestUnsafeServer:
    @pytest.mark.parametrize(
        "unsafe", [{"fsync": "off"}, {"full_page_writes": "off"}, {"fsync": "off", "full_page_writes": "off"}]
    )  # fmt: skip
    async def test_a_service_refuses_to_start_on_it(
        self, server: PrivatePostgres, unsafe: dict[str, str]
    ) -> None:
        await configure(server, **unsafe)
        named = " and ".join(f"{name}=off" for name in sorted(unsafe))
        with pytest.raises(UnsafeDatabaseError, match=re.escape(f"with {named}:")):
            await Database(server.url, "orders", size=1).open()

    async def test_a_service_starts_on_it_if_that_is_allowed(self, server: PrivatePostgres) -> None:
        await configure(server, fsync="off")
        database = Database(server.url, "orders", size=1, allow_unsafe=True)
        await database.open()
        assert await database.pool.fetchval("SELECT 1") == 1
        await database.close()


async def test_a_start_waits_while_all_connections_are_taken(install_chorus: Install) -> None:
    chorus = await install_chorus("crowded", "orders")
    login = chorus.login("orders")
    async with opened(chorus, "orders") as (_, owner):
        await owner.execute(f"ALTER ROLE {login} CONNECTION LIMIT 0")
        database = Database(chorus.database_url("orders"), "orders", size=1)
        with stamina.set_testing(True, attempts=10_000):  # without a delay
            opening = asyncio.create_task(database.open())
            done, _ = await asyncio.wait([opening], timeout=0.5)
            assert not done
            await owner.execute(f"ALTER ROLE {login} CONNECTION LIMIT -1")
            await opening
        assert await database.pool.fetchval("SELECT 1") == 1
        await database.close()
