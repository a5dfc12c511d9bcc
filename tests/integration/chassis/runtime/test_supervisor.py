"""A background task that fails ends its process with an error, so that its supervisor restarts it."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.broker import Broker
from tests.support.builders import a_user
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tests.support.processes import Processes, ServiceProcess
from tests.support.tokens import Signer


@pytest.fixture
async def installation(install_chorus: Install) -> Installation:
    return await install_chorus("supervised", "orders")


@pytest.fixture
async def administrator(
    installation: Installation,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(installation.database_admin_url("orders"))
    yield connection
    await connection.close()


@pytest.fixture
async def process(installation: Installation, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    """A process started by the command itself, so that its exit status is observed."""
    processes = Processes(tmp_path)
    yield await processes.of("orders", installation).start()
    await processes.stop()


async def test_the_process_ends_with_an_error_when_its_relay_fails(
    process: ServiceProcess, administrator: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await administrator.execute("ALTER TABLE outbox RENAME TO somewhere_else")
    try:
        assert await process.ended(within=60) == 1
    finally:
        await administrator.execute("ALTER TABLE somewhere_else RENAME TO outbox")
    assert "supervisor.task_died" in process.log
    assert "task=relay" in process.log


async def test_the_process_ends_with_an_error_when_a_task_of_the_service_fails(
    installation: Installation,
    process: ServiceProcess,
    administrator: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    signer, user = Signer(), a_user()
    broker = Broker(installation.amqp_admin_url)
    await broker.open()
    await broker.publish(signer.published())
    await broker.close()
    async with process.http(signer.token(user.id)) as ada:

        async def let_in() -> bool:
            return (await ada.get("/order")).status_code == 200

        await eventually(let_in)
        waiting = asyncio.create_task(
            ada.post("/order/create", json={"totalPrice": 1}, headers={"Prefer": "wait=30"})
        )

        async def placed() -> bool:
            return bool(await administrator.fetchval("SELECT count(*) FROM orders"))

        await eventually(placed)
        await administrator.execute("ALTER TABLE orders RENAME COLUMN status TO state")
        try:
            assert await process.ended(within=60) == 1
        finally:
            await administrator.execute("ALTER TABLE orders RENAME COLUMN state TO status")
        await asyncio.gather(waiting, return_exceptions=True)
    # Either may come first: a client that reads its order after the change does not wait.
    assert "supervisor.task_died" in process.log
    assert re.search("task=(order_updates|late_order_gauges)", process.log)


async def test_sigterm_ends_the_process_with_status_0(process: ServiceProcess) -> None:
    assert await process.stop() == 0
    assert "service.stopped" in process.log
