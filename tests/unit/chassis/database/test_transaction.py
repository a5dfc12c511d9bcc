"""The unit of work: one place begins and commits, with as few round trips as possible."""

import asyncio
import re
from uuid import UUID

import asyncpg
import pytest

from apps.orders.models import Customer, Order
from chassis.database.errors import CommitUnknownError
from chassis.database.tables import statements
from chassis.database.transaction import transaction
from events.base import Causation
from events.users import UserRegistered
from tests.support.builders import a_user, now
from tests.support.fake_postgres import Server

ADA = a_user()
CUSTOMER = Customer(id=ADA.id, version=ADA.version)
ORDER = Order.place(ADA.id, ADA.id, 100, now())


def commands(sql: str) -> str:
    """The commands of a statement and their tables, without the rest."""
    written = re.findall(r"(?:INSERT INTO|UPDATE(?= \w+ SET)) \w+", sql)
    return ", ".join(written) or re.sub(r"^SELECT .*?(FROM \w+).*", r"SELECT \1", sql)


class TestRoundTrips:
    """Writes are deferred, and reads see earlier writes."""

    async def test_all_writes_are_sent_as_one_statement(self, server: Server) -> None:
        async with transaction(server) as tx:
            await tx.lock(Customer, [ADA.id])
            await tx.insert([ORDER])
            await tx.update([CUSTOMER], "version")
            tx.publish(UserRegistered(user=ADA), Causation("flow"))
        assert [commands(sql) for sql in server.executed] == [
            "SELECT FROM customers",
            "INSERT INTO orders, UPDATE customers, INSERT INTO event_log, INSERT INTO outbox",
        ]
        assert server.begun == 1

    async def test_without_locks_one_statement_is_the_transaction(self, server: Server) -> None:
        async with transaction(server) as tx:
            await tx.load(Customer, [ADA.id])
            await tx.insert([ORDER])
            tx.publish(UserRegistered(user=ADA), Causation("flow"))
        assert [commands(sql) for sql in server.executed] == [
            "SELECT FROM customers",
            "INSERT INTO orders, INSERT INTO event_log, INSERT INTO outbox",
        ]
        assert server.begun == 0
        assert len(server.committed) == 1

    async def test_deferred_writes_are_sent_before_statements_that_could_read_them(
        self, server: Server
    ) -> None:
        async with transaction(server) as tx:
            await tx.insert([ORDER])
            await tx.load(Customer, [ADA.id])
            await tx.insert([CUSTOMER])
            await tx.update([CUSTOMER], "version")
            await tx.execute("SELECT FROM orders")
            tx.publish(UserRegistered(user=ADA), Causation("flow"))
        assert [commands(sql) for sql in server.executed] == [
            "INSERT INTO orders",
            "SELECT FROM customers",
            "INSERT INTO customers",
            "UPDATE customers",
            "SELECT FROM orders",
            "INSERT INTO event_log, INSERT INTO outbox",
        ]
        assert server.begun == 1

    async def test_insert_missing_sends_rows_in_key_order(self, server: Server) -> None:
        orders = [Order.place(UUID(int=n), ADA.id, 100, now()) for n in range(3)]
        async with transaction(server) as tx:
            await tx.insert_missing(orders[::-1])
        assert server.sent[0] == [order.id for order in orders]

    async def test_a_connection_lost_before_the_one_statement_is_not_an_unknown_commit(
        self, server: Server
    ) -> None:
        async def work() -> None:
            async with transaction(server) as tx:
                await tx.load(Customer, [ADA.id])
                await tx.insert([ORDER])
                server.closed = True

        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await work()
        assert server.executed == [statements(Customer).select("id", lock=False)]

    async def test_an_empty_transaction_makes_no_round_trip(self, server: Server) -> None:
        async with transaction(server) as tx:
            await tx.insert([])
            assert await tx.lock_all(Customer, []) == {}
        assert server.executed == []
        assert server.begun == 0

    @pytest.mark.parametrize(
        ("fault", "raised"),
        [
            (ConnectionResetError(), CommitUnknownError),
            (asyncpg.ConnectionDoesNotExistError("closed"), CommitUnknownError),
            (asyncpg.QueryCanceledError("too slow"), asyncpg.QueryCanceledError),
            (asyncpg.UniqueViolationError("there"), asyncpg.UniqueViolationError),
        ],
        ids=lambda value: getattr(value, "__name__", type(value).__name__),
    )
    async def test_a_connection_lost_during_the_one_statement_is_an_unknown_commit(
        self, server: Server, fault: Exception, raised: type[Exception]
    ) -> None:
        async def work() -> None:
            async with transaction(server) as tx:
                await tx.insert([ORDER])

        server.commit_faults = [fault]
        with pytest.raises(raised):
            await work()
        assert not server.committed


class TestTransaction:
    """Commit, rollback and callbacks."""

    async def test_after_commit_callbacks_run_after_commit(self, server: Server) -> None:
        called: list[str] = []
        async with transaction(server) as tx:
            tx.after_commit.append(lambda: called.append("after"))
            assert called == []
        assert called == ["after"]

    @pytest.mark.parametrize("error", [ValueError("bad"), asyncio.CancelledError()], ids=repr)
    async def test_any_exception_rolls_back(self, server: Server, error: BaseException) -> None:
        called: list[str] = []

        async def work() -> None:
            async with transaction(server) as tx:
                tx.after_commit.append(lambda: called.append("after"))
                await tx.execute("write")
                server.written.append(1)
                raise error

        with pytest.raises(type(error)):
            await work()
        assert not server.committed
        assert not server.written
        assert not called

    async def test_no_rollback_is_sent_on_a_closed_connection(self, server: Server) -> None:
        async def work() -> None:
            async with transaction(server) as tx:
                await tx.execute("write")
                server.written.append(1)
                server.closed = True
                raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            await work()
        assert server.written == [1]
        assert not server.committed

    @pytest.mark.parametrize(
        ("fault", "terminated"),
        [(asyncpg.InternalClientError("invalid state"), 1), (ConnectionResetError(), 0)],
    )
    async def test_a_connection_in_an_invalid_state_is_closed_unless_the_pool_has_taken_it_back(
        self, server: Server, fault: Exception, terminated: int
    ) -> None:
        async def work() -> None:
            async with transaction(server) as tx:
                await tx.execute("write")

        server.commit_faults = [fault]
        with pytest.raises(CommitUnknownError):
            await work()
        assert server.terminated == terminated
