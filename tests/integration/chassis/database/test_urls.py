"""Every form of a PostgreSQL URL serves the pool of use cases, reading sessions, migrations and audits alike."""

import asyncio
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import text

from chassis.database.pool import Database
from ops.audit.access import auditor_url
from ops.audit.databases import reading
from ops.migrate import create_database, grant_auditor, upgrade_database
from tests.support.fixtures import Install
from tests.support.servers import Servers

PARAMETERS = (
    "",
    "?sslmode=prefer",
    "?sslmode=disable&target_session_attrs=read-write",
    "?sslmode=allow&connect_timeout=3&keepalives=1&application_name=mine&client_encoding=utf8",
    "?options=-c%20work_mem%3D1MB&gssencmode=disable&channel_binding=prefer",
)


async def answers(url: str) -> None:
    """Both ways in read; the sessions only read, and the pool writes."""
    database = Database(url, "orders", size=1)
    await database.open()
    try:
        assert await database.fault() == ""
        async with database.reading() as session:
            connection = await session.connection()
            found = await connection.execute(text("SELECT count(*) FROM orders"))
            assert found.scalar_one() == 0
            assert (
                await connection.execute(text("SHOW transaction_read_only"))
            ).scalar_one() == "on"
    finally:
        await database.close()


@pytest.mark.parametrize("parameters", PARAMETERS)
async def test_parameters_mean_the_same_to_both_pools(
    install_chorus: Install, parameters: str
) -> None:
    chorus = await install_chorus("urls", "orders")
    await answers(chorus.database_url("orders") + parameters)


async def test_the_scheme_may_be_short_and_hosts_may_be_several(install_chorus: Install) -> None:
    chorus = await install_chorus("urls", "orders")
    parts = urlsplit(chorus.database_url("orders"))
    login, _, host = parts.netloc.rpartition("@")
    await answers(f"postgres://{login}@127.0.0.1:1,{host}{parts.path}")
    user, _, password = login.partition(":")
    address, _, port = host.partition(":")
    query = f"user={user}&password={password}&host={address}&port={port}"
    await answers(f"postgresql://{parts.path}?{query}")


async def test_names_and_passwords_may_have_special_characters(
    install_chorus: Install, servers: Servers, worker: str
) -> None:
    chorus = await install_chorus("urls", "orders")
    name, password = quote(f"о'r \"@/:%_{worker}", safe=""), quote("p'@/:?#%\\ я", safe="")
    host = urlsplit(chorus.database_url("orders")).netloc.rpartition("@")[2]
    url = f"postgresql://{name}:{password}@{host}/{name}?sslmode=prefer"
    admin_url = servers.database_admin_url + "?sslmode=prefer"
    await create_database(admin_url, url)
    await asyncio.to_thread(upgrade_database, admin_url, "orders", url)
    await grant_auditor(admin_url, "orders", url, "p@")
    await answers(url)
    async with reading({"orders": auditor_url(url, "p@")}) as databases:
        assert await databases["orders"].value("SELECT count(*) FROM orders") == 0
