"""SIGTERM while a server does not respond: a service ends in time with status 0, and loses nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import httpx
import pytest

from chassis.database.transaction import Pool
from chassis.messaging.outbox import Row
from events.billing import PaymentSucceeded
from events.orders import OrderPlaced
from events.users import UserState
from tests.support.broker import Broker, Tap
from tests.support.builders import a_user, an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.mailing import logged
from tests.support.processes import Processes, ServiceProcess
from tests.support.proxy import Proxy
from tests.support.tokens import Signer

TIMEOUT_SECONDS: Final = 15.0
"""The guarantee is ten; a busy machine gets more. Without the guarantee it took 30 to 60."""

ORDERS: Final = 300
SIGNER: Final = Signer()
PAID: Final = "SELECT order_id FROM transfers WHERE kind = 'payment' AND order_id = ANY($1)"


class Fragile:
    """Billing as a process whose servers can freeze, with an administrator's connections that cannot."""

    process: ServiceProcess
    tap: Tap

    def __init__(self, database: Proxy, broker: Proxy, admin: Broker, rows: Pool) -> None:
        self.database = database
        self.broker = broker
        self.admin = admin
        self.rows = rows
        self.user: UserState = a_user()

    async def deposit(self, amount: str, key: str) -> httpx.Response:
        async with self.process.http(SIGNER.token(self.user.id)) as http:
            path = f"/account/{self.user.id}/deposit"
            return await http.post(path, json={"amount": amount}, headers={"Idempotency-Key": key})

    async def trusts_tokens(self) -> None:
        await self.admin.publish(SIGNER.published())

        async def deposited() -> None:
            assert (await self.deposit("1000.00", "first")).status_code == 201

        await eventually(deposited)

    async def publish_orders(self, count: int) -> list[Row]:
        """Publish this many orders of the user, 1.00 each."""
        return await self.admin.publish(
            *(
                outbox_row(OrderPlaced(order=an_order(total="1.00", user=self.user)))
                for _ in range(count)
            )
        )

    async def all_are_paid_once(self, rows: list[Row]) -> None:
        orders = {UUID(row.attributes["subject"]) for row in rows}

        async def paid() -> None:
            found = [record[0] for record in await self.rows.fetch(PAID, list(orders))]
            assert len(found) == len(orders)
            assert set(found) == orders
            await self.tap.flush()
            succeeded = {
                e.id: e.event for e in self.tap.received if isinstance(e.event, PaymentSucceeded)
            }
            assert sorted(event.order.id for event in succeeded.values()) == sorted(orders)

        await eventually(paid)


@pytest.fixture
async def fragile(install_chorus: Install, processes: Processes) -> AsyncIterator[Fragile]:
    installation = await install_chorus("stopping", "billing")
    database_url = installation.database_url("billing")
    broker_url = installation.amqp_url("billing")
    admin = Broker(installation.amqp_admin_url)
    await admin.open()
    async with (
        Proxy.before(database_url) as database,
        Proxy.before(broker_url) as broker,
        asyncpg.create_pool(installation.database_admin_url("billing"), min_size=1) as rows,
        admin.tap("billing") as tap,
    ):
        made = Fragile(database, broker, admin, rows)
        made.tap = tap
        settings = {
            "CHORUS_DATABASE_URL_BILLING": database.url(database_url),
            "CHORUS_AMQP_URL_BILLING": broker.url(broker_url),
        }
        [made.process] = await processes.start(installation, "billing", settings=settings)
        await made.trusts_tokens()
        yield made
        await made.process.stop()  # before its servers are gone
    await admin.close()


@pytest.mark.parametrize(
    "frozen", [("database",), ("broker",), ("database", "broker")], ids="+".join
)
async def test_sigterm_does_not_wait_for_a_frozen_server(
    fragile: Fragile, frozen: tuple[str, ...]
) -> None:
    rows = await fragile.publish_orders(ORDERS)
    silent = [proxy for name, proxy in vars(fragile).items() if name in frozen]
    for proxy in silent:
        proxy.freeze()
    asking = asyncio.create_task(fragile.deposit("5.00", "second"))
    rows += await fragile.publish_orders(ORDERS)
    fragile.process.terminate()

    assert await fragile.process.ended(within=TIMEOUT_SECONDS) == 0
    assert "supervisor.task_died" not in fragile.process.log
    answer = await asking
    assert answer.status_code == (503 if "database" in frozen else 201)
    assert answer.headers["X-Correlation-Id"]

    for proxy in silent:
        proxy.cut()
        proxy.thaw()
    await fragile.process.start()
    await fragile.all_are_paid_once(rows)
    again = await fragile.deposit("5.00", "second")
    assert again.status_code == 201
    balance = "SELECT balance FROM accounts WHERE user_id = $1"
    assert await fragile.rows.fetchval(balance, fragile.user.id) == 100_500 - 100 * len(rows)


async def test_sigterm_completes_the_work_in_progress(fragile: Fragile) -> None:
    rows = await fragile.publish_orders(ORDERS)
    fragile.process.terminate()
    assert await fragile.process.ended(within=TIMEOUT_SECONDS) == 0
    assert "service.stopped_hard" not in fragile.process.log
    await fragile.tap.flush()
    succeeded = [
        e.event.order.id for e in fragile.tap.received if isinstance(e.event, PaymentSucceeded)
    ]
    orders = [UUID(row.attributes["subject"]) for row in rows]
    done = [record[0] for record in await fragile.rows.fetch(PAID, orders)]
    assert sorted(done) == sorted(succeeded), "every committed effect is published before the end"
    await fragile.process.start()
    await fragile.all_are_paid_once(rows)


SILENT: Final = {
    "database": "CHORUS_DATABASE_URL_USERS",
    "broker": "CHORUS_AMQP_URL_USERS",
}


class TestStoppingDuringAStart:
    @pytest.mark.parametrize("silent", SILENT)
    async def test_a_server_that_never_answers_is_left_at_once(
        self, install_chorus: Install, processes: Processes, silent: str
    ) -> None:
        chorus = await install_chorus("unstarted", "users")
        urls = {"database": chorus.database_url("users"), "broker": chorus.amqp_url("users")}
        connected = asyncio.Event()

        async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connected.set()
            await reader.read()
            await reader.read()
            writer.close()

        async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            parts = urlsplit(urls[silent])
            login = parts.netloc.rpartition("@")[0]
            url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}"))
            process = processes.of("users", chorus, settings={SILENT[silent]: url})
            process.launch()
            await asyncio.wait_for(connected.wait(), 60)
            assert await process.stop() == 0
        assert "Traceback" not in process.log
        assert "Timeout (0:00:10)!" not in process.log

    async def test_a_read_only_server_is_left_at_once(
        self, install_chorus: Install, processes: Processes
    ) -> None:
        chorus = await install_chorus("unstarted", "users")
        owner = await asyncpg.connect(chorus.database_admin_url("users"))
        name = chorus.login("users")
        await owner.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            process = processes.of("users", chorus)
            process.launch()
            await eventually(lambda: logged(process, "committer.waiting"))
            assert await process.stop() == 0
        finally:
            await owner.execute("SET default_transaction_read_only = off")
            await owner.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            await owner.close()
        assert "Timeout (0:00:10)!" not in process.log
