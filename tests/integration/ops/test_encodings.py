"""A PostgreSQL whose template databases are not UTF-8: `chorus migrate` makes UTF-8 databases, and uses no others."""

import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import replace

import asyncpg
import pytest

from apps.users.main import app
from tests.support.harness import RunningService
from tests.support.installation import Installation, install
from tests.support.registering import a_registration
from tests.support.servers import Servers
from tools.servers import PrivatePostgres, private_server

ENCODINGS = ("LATIN1", "SQL_ASCII")


@pytest.fixture(scope="module", params=ENCODINGS)
def other(request: pytest.FixtureRequest) -> Iterator[PrivatePostgres]:
    """A server of this file's own, initialised with an encoding."""

    class Initialised(PrivatePostgres):
        encoding = request.param

    with private_server(Initialised) as server:
        yield server


async def migrate(chorus: Installation) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error of `chorus migrate`."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "migrate", env=inherited | chorus.environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_new_database_is_utf_8_and_takes_every_name(
    servers: Servers, worker: str, other: PrivatePostgres
) -> None:
    there = replace(servers, database_admin_url=other.url)
    name = f"{other.encoding.lower()}_{worker}"
    users = RunningService("users", app, await install(there, name, ("users",)))
    async with users.running(), users.http() as http:
        assert await users.value("SHOW server_encoding") == "UTF8"
        answer = await http.post("/user/register", json=a_registration(name="Ада Лавлейс 😀"))
        assert answer.status_code == 201, answer.text
        assert await users.value("SELECT name FROM users") == "Ада Лавлейс 😀"


async def test_an_existing_database_with_another_encoding_is_refused_by_name_in_one_line(
    servers: Servers, worker: str, other: PrivatePostgres
) -> None:
    there = replace(servers, database_admin_url=other.url)
    chorus = Installation(f"existing_{worker}", there)
    database = chorus.login("users")
    await execute(other.url, f"CREATE DATABASE {database}")
    status, out, err = await migrate(chorus)
    assert (status, out) == (2, "")
    assert err == (
        f"chorus: the database {database} has the encoding {other.encoding} instead of UTF8, and cannot store"
        " every name: use another one, or make it again from template0 with ENCODING 'UTF8'\n"
    )
    await execute(other.url, f"DROP DATABASE {database}")
