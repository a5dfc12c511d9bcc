"""Times of rows are the database's: the clock of a service's machine decides nothing that is kept."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest

from chassis.database import transaction as transaction_module
from chassis.database.pool import Database
from chassis.database.transaction import Pool, TimedConnection, transaction
from chassis.messaging import relay
from chassis.messaging.publisher import Publisher
from chassis.runtime import retention
from tests.support.builders import outbox_row
from tests.support.fixtures import Install
from tests.support.opened import opened
from tests.support.relay_harness import placed

SKEWS = [timedelta(days=-30), timedelta(hours=-1), timedelta(minutes=8), timedelta(days=8)]
CLOSE = timedelta(seconds=5)


@pytest.fixture(params=SKEWS, ids=str)
def skew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> timedelta:
    """The machine's clock is wrong by so much."""
    by: timedelta = request.param

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    monkeypatch.setattr(transaction_module, "datetime", Skewed)
    return by


@pytest.fixture
async def orders(install_chorus: Install) -> AsyncIterator[tuple[Database, Pool]]:
    chorus = await install_chorus("clocks", "orders")
    async with opened(chorus, "orders") as (database, owner):
        yield database, owner
        await owner.execute(
            "DELETE FROM idempotency_keys; DELETE FROM outbox; DELETE FROM event_log"
        )


@pytest.mark.usefixtures("skew")
async def test_a_transactions_time_is_the_servers(orders: tuple[Database, Pool]) -> None:
    database, owner = orders
    async with transaction(database.pool) as tx:
        assert abs(tx.now - await owner.fetchval("SELECT clock_timestamp()")) < CLOSE
        assert tx.now.tzinfo is UTC


@pytest.mark.usefixtures("skew")
async def test_nothing_young_is_purged(orders: tuple[Database, Pool]) -> None:
    database, owner = orders
    await owner.execute(
        "INSERT INTO idempotency_keys (user_id, key, fingerprint, created_at)"
        " SELECT gen_random_uuid(), 'key', '', now() - interval '6 days'"
    )
    async with transaction(database.pool) as tx:
        assert await retention.purge(tx, [*retention.TABLES]) == [0, 0]
    assert await owner.fetchval("SELECT count(*) FROM idempotency_keys") == 1


@pytest.mark.usefixtures("skew")
async def test_a_refused_row_rests_as_long_as_it_should(orders: tuple[Database, Pool]) -> None:
    database, owner = orders
    async with transaction(database.pool) as tx:
        tx.outbox.append(outbox_row(placed(1)[0]))
    async with transaction(database.pool) as tx:
        [row] = await relay.take(tx, 1)
        here = relay.Relay(database.pool, Publisher("amqp://nowhere", "tests"))
        await here._put_back(tx, [([row], ConnectionError())], of=2)
    rests = await owner.fetchval("SELECT retry_at - now() FROM outbox")
    assert abs(rests - timedelta(seconds=relay.RETRY_SECONDS)) < CLOSE


async def test_a_transactions_time_is_not_ahead_of_the_servers(
    orders: tuple[Database, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late the reply arrives by which a connection measures the server's clock."""
    database, owner = orders
    fetchval = TimedConnection.fetchval

    async def fetched_late(self: TimedConnection, sql: str) -> Any:
        value = await fetchval(self, sql)
        await asyncio.sleep(0.2)
        return value

    monkeypatch.setattr(TimedConnection, "fetchval", fetched_late)
    monkeypatch.setattr(transaction_module, "CLOCK_SECONDS", 0.0)
    async with transaction(database.pool) as tx:
        pass
    assert tx.now <= await owner.fetchval("SELECT clock_timestamp()")
    async with transaction(database.pool) as tx:
        assert tx.now <= await owner.fetchval("SELECT clock_timestamp()")


async def test_a_step_of_the_machines_clock_does_not_move_the_time_of_a_connection(
    orders: tuple[Database, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, _ = orders
    times = []
    for seconds in (0, 3600, -3600):
        stepped = datetime.now(UTC).timestamp() + seconds
        monkeypatch.setattr("time.time", lambda at=stepped: at)
        async with transaction(database.pool) as tx:
            times.append(tx.now)
    assert times == sorted(times)
    assert times[-1] - times[0] < CLOSE


async def test_the_servers_clock_is_read_again(
    orders: tuple[Database, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that has been open for long follows a server whose clock was set."""
    database, _ = orders
    async with database.pool.acquire() as connection:
        connection._con._ahead += 3600.0
    async with transaction(database.pool) as tx:
        wrong = tx.now
    monkeypatch.setattr(transaction_module, "CLOCK_SECONDS", 0.0)
    async with transaction(database.pool) as tx:
        assert wrong - tx.now > timedelta(minutes=59)
