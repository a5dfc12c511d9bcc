"""Relays on a database and a broker of their own."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from chassis.database.pool import Database
from tests.support.broker import Broker
from tests.support.fixtures import Install
from tests.support.relay_harness import RelayHarness


@pytest.fixture(scope="module")
async def open_harness(install_chorus: Install) -> AsyncIterator[RelayHarness]:
    installation = await install_chorus("relay", "orders")
    database = Database(installation.database_url("orders"), "orders")
    await database.open()
    broker = Broker(installation.amqp_admin_url)
    await broker.open()
    async with asyncpg.create_pool(installation.database_admin_url("orders"), min_size=1) as pool:
        yield RelayHarness(installation, pool, database.pool, broker)
    await broker.close()
    await database.close()


@pytest.fixture
async def harness(open_harness: RelayHarness) -> AsyncIterator[RelayHarness]:
    async with open_harness.broker.tap("orders") as open_harness.tap:
        yield open_harness
    await open_harness.pool.execute("DELETE FROM outbox; DELETE FROM journal_outbox")
