"""One place begins and commits, in as few round trips as can be."""

import asyncio
import re
from uuid import UUID

import asyncpg
import pytest

from apps.orders.models import Customer, Order
from chassis.database.errors import CommitUnknownError
from chassis.database.tables import statements
from chassis.database.transaction import begin
from events.base import Causation
from events.users import UserRegistered
from tests.support.builders import a_user, now
from tests.unit.server import Server

ADA = a_user()
CUSTOMER = Customer(id=ADA.id, version=ADA.version)
ORDER = Order.place(ADA.id, ADA.id, 100, now())


@pytest.fixture
async def server() -> Server:
    return Server()


def said(sql: str) -> str:
    """What a statement does to which tables, without the rest."""
    written = re.findall(r"(?:INSERT INTO|UPDATE(?= \w+ SET)) \w+", sql)
    return ", ".join(written) or re.sub(r"^SELECT .*?(FROM \w+).*", r"SELECT \1", sql)


class TestRoundTrips:
    """There are as few as can be, and what is read shows what was written."""

    async def test_everything_that_is_written_goes_in_one_statement(self, server: Server) -> None:
        async with begin(server) as tx:
            await tx.lock(Customer, [ADA.id])
            await tx.insert([ORDER])
            await tx.update([CUSTOMER], "version")
            tx.publish(UserRegistered(user=ADA), Causation("flow"))
        assert [said(sql) for sql in server.executed] == [
            "SELECT FROM customers",
            "INSERT INTO orders, UPDATE customers, INSERT INTO outbox",
        ]
        assert server.begun == 1

    async def test_without_locks_one_statement_is_the_transaction(self, server: Server) -> None:
        async with begin(server) as tx:
            await tx.load(Customer, [ADA.id])
            await tx.insert([ORDER])
            tx.publish(UserRegistered(user=ADA), Causation("flow"))
        assert [said(sql) for sql in server.executed] == [
            "SELECT FROM customers",
            "INSERT INTO orders, INSERT INTO outbox",
        ]
        assert server.begun == 0
        assert len(server.committed) == 1

    async def test_what_could_see_a_write_comes_after_it(self, server: Server) -> None:
        async with begin(server) as tx:
            await tx.insert([ORDER])
            await tx.load(Customer, [ADA.id])
            await tx.insert([CUSTOMER])
            await tx.update([CUSTOMER], "version")
            await tx.execute("SELECT FROM orders")
            tx.publish(UserRegistered(user=ADA), Causation("flow"))
        assert [said(sql) for sql in server.executed] == [
            "INSERT INTO orders",
            "SELECT FROM customers",
            "INSERT INTO customers",
            "UPDATE customers",
            "SELECT FROM orders",
            "INSERT INTO outbox",
        ]
        assert server.begun == 1

    async def test_rows_that_others_may_write_go_in_the_order_of_their_key(
        self, server: Server
    ) -> None:
        users = [UUID(int=n) for n in (3, 1, 2)]
        orders = [Order.place(UUID(int=n), user, 100, now()) for n, user in enumerate(users)]
        async with begin(server) as tx:
            await tx.insert_missing(orders, key="user_id")
        assert server.sent[1] == sorted(users)
        async with begin(server) as tx:
            await tx.insert_missing(orders[::-1])
        assert server.sent[0] == [order.id for order in orders]

    async def test_a_connection_that_was_lost_before_the_one_statement_leaves_nothing_unknown(
        self, server: Server
    ) -> None:
        async def work() -> None:
            async with begin(server) as tx:
                await tx.load(Customer, [ADA.id])
                await tx.insert([ORDER])
                server.closed = True

        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await work()
        assert server.executed == [statements(Customer).select("id", lock=False)]

    async def test_who_does_nothing_costs_nothing(self, server: Server) -> None:
        async with begin(server) as tx:
            await tx.insert([])
            assert await tx.lock_all(Customer, []) == {}
        assert server.executed == []
        assert server.begun == 0

    @pytest.mark.parametrize(
        ("fault", "told"),
        [
            (ConnectionResetError(), CommitUnknownError),
            (asyncpg.ConnectionDoesNotExistError("closed"), CommitUnknownError),
            (asyncpg.QueryCanceledError("too slow"), asyncpg.QueryCanceledError),
            (asyncpg.UniqueViolationError("there"), asyncpg.UniqueViolationError),
        ],
        ids=lambda value: getattr(value, "__name__", type(value).__name__),
    )
    async def test_one_statement_may_be_lost_like_a_commit(
        self, server: Server, fault: Exception, told: type[Exception]
    ) -> None:
        async def work() -> None:
            async with begin(server) as tx:
                await tx.insert([ORDER])

        server.commit_faults = [fault]
        with pytest.raises(told):
            await work()
        assert not server.committed


class TestTransaction:
    """One place begins and commits."""

    async def test_what_follows_a_commit_waits_for_it(self, server: Server) -> None:
        happened: list[str] = []
        async with begin(server) as tx:
            tx.after_commit(lambda: happened.append("after"))
            assert happened == []
        assert happened == ["after"]

    @pytest.mark.parametrize("error", [ValueError("bad"), asyncio.CancelledError()], ids=repr)
    async def test_anything_raised_rolls_back(self, server: Server, error: BaseException) -> None:
        happened: list[str] = []

        async def work() -> None:
            async with begin(server) as tx:
                tx.after_commit(lambda: happened.append("after"))
                await tx.execute("write")
                server.written.append(1)
                raise error

        with pytest.raises(type(error)):
            await work()
        assert not server.committed
        assert not server.written
        assert not happened

    async def test_a_connection_that_is_gone_is_not_asked_to_roll_back(
        self, server: Server
    ) -> None:
        async def work() -> None:
            async with begin(server) as tx:
                await tx.execute("write")
                server.written.append(1)
                server.closed = True
                raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            await work()
        assert server.written == [1]
