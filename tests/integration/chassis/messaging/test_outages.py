"""PostgreSQL and RabbitMQ become unavailable: the service waits, loses nothing, and resumes by itself."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from uuid import UUID

import pytest

from apps.billing.api import router
from apps.billing.consumers import SUBSCRIPTIONS
from chassis.database import group_commit as committer
from chassis.database import pool as databases
from chassis.database.group_commit import GroupCommitter
from chassis.database.pool import Database
from chassis.database.transaction import Pool, Transaction, transaction
from chassis.messaging.outbox import Row
from chassis.runtime import backlog as gauges
from chassis.runtime.service import create_app
from events.billing import PaymentSucceeded
from events.orders import OrderPlaced
from events.users import UserState
from tests.support.builders import a_user, an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.proxy import Proxy


@dataclass
class Fragile:
    """A billing service behind proxies of its servers."""

    billing: RunningService
    database: Proxy
    broker: Proxy


@pytest.fixture(scope="module")
async def running_fragile(install_chorus: Install) -> AsyncIterator[Fragile]:
    installation = await install_chorus("outages", "billing")
    app = create_app("billing", description="", router=router, subscriptions=SUBSCRIPTIONS)
    database_url = installation.database_url("billing")
    broker_url = installation.amqp_url("billing")
    async with Proxy.before(database_url) as database, Proxy.before(broker_url) as broker:
        settings = {
            "CHORUS_DATABASE_URL_BILLING": database.url(database_url),
            "CHORUS_AMQP_URL_BILLING": broker.url(broker_url),
        }
        async with RunningService("billing", app, installation).running(settings) as billing:
            yield Fragile(billing, database, broker)


@pytest.fixture
async def fragile(running_fragile: Fragile) -> AsyncIterator[Fragile]:
    async with running_fragile.billing.observed():
        yield running_fragile
        await running_fragile.billing.is_ready(200)


async def deposit(billing: RunningService, user: UserState, amount: int = 1000) -> None:
    async with billing.http(user) as ada:
        answer = await ada.post(f"/account/{user.id}/deposit", json={"amount": amount})
        assert answer.status_code == 201, answer.text


def orders_of(user: UserState, count: int) -> list[Row]:
    return [outbox_row(OrderPlaced(order=an_order(total="1.00", user=user))) for _ in range(count)]


async def all_are_paid_once(billing: RunningService, rows: list[Row]) -> None:
    await billing.has_processed(*rows)
    orders = {UUID(row.attributes["subject"]) for row in rows}
    paid = await billing.rows(
        "SELECT order_id FROM transfers WHERE kind = 'payment' AND order_id = ANY($1)", list(orders)
    )
    assert len(paid) == len(orders)
    assert {row["order_id"] for row in paid} == orders
    succeeded = {
        e.id: e.event for e in billing.tap.received if isinstance(e.event, PaymentSucceeded)
    }
    assert {event.order.id for event in succeeded.values()} == orders
    assert len(succeeded) == len(orders)


def transactions(monkeypatch: pytest.MonkeyPatch) -> list[Pool]:
    """Grows by one whenever a committer begins a transaction, or tries to."""
    begun: list[Pool] = []

    def counted(pool: Pool) -> AbstractAsyncContextManager[Transaction]:
        begun.append(pool)
        return transaction(pool)

    monkeypatch.setattr(committer, "transaction", counted)
    return begun


async def _answer(tx: Transaction, numbers: Sequence[int]) -> Sequence[int]:
    return [(await tx.fetch("SELECT $1::int", number))[0][0] for number in numbers]


class TestServiceDuringOutages:
    """A service whose database and broker can be made unavailable."""

    async def test_events_wait_for_the_database_and_none_is_dead_lettered(
        self, fragile: Fragile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("chassis.messaging.retries.RETRY_DELAYS", (0.01,))
        more_than_attempts = 3
        billing, user = fragile.billing, a_user()
        await deposit(billing, user)
        await billing.is_quiet()
        tries = transactions(monkeypatch)
        await fragile.database.refuse()
        rows = orders_of(user, 100)
        await billing.receives(rows[0])

        async def tried_again_and_again() -> None:
            assert len(tries) >= more_than_attempts

        await eventually(tried_again_and_again)
        await billing.receives(*rows[1:])
        await billing.is_ready(503)
        assert await billing.value("SELECT count(*) FROM charges WHERE user_id = $1", user.id) == 0
        await fragile.database.accept()
        await all_are_paid_once(billing, rows)

    async def test_events_are_processed_once_although_database_connections_are_cut(
        self,
        fragile: Fragile,
    ) -> None:
        billing, user = fragile.billing, a_user()
        await deposit(billing, user)
        rows = orders_of(user, 200)
        for start in range(0, 200, 50):
            fragile.database.freeze()
            await billing.receives(*rows[start : start + 50])
            fragile.database.cut()
            fragile.database.thaw()
        await all_are_paid_once(billing, rows)

    async def test_an_event_whose_commits_are_unanswered_has_one_effect(
        self, fragile: Fragile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "chassis.messaging.retries.RETRY_DELAYS", ()
        )  # a transient fault does not count as an attempt
        billing, user = fragile.billing, a_user()
        await deposit(billing, user)
        await billing.is_quiet()
        its_own_and_the_relays = 2
        fragile.database.lose_reply_to(b"COMMIT", its_own_and_the_relays)
        rows = orders_of(user, 1)
        await billing.receives(*rows)
        await all_are_paid_once(billing, rows)
        assert fragile.database.lost_replies == its_own_and_the_relays

    async def test_a_request_whose_commit_is_unanswered_gets_503_and_can_be_repeated(
        self,
        fragile: Fragile,
    ) -> None:
        billing, user = fragile.billing, a_user()
        async with billing.http(user) as ada:
            await ada.get(f"/account/{user.id}")
            await billing.is_quiet()
            path, body = f"/account/{user.id}/deposit", {"amount": 7}
            for attempt in range(1, 6):
                key = {"Idempotency-Key": f"attempt-{attempt}"}
                fragile.database.lose_reply_to(b"COMMIT")
                unknown = await ada.post(path, json=body, headers=key)
                if unknown.status_code != 201:
                    break  # else it was a COMMIT of the relay, which reads the outbox once a second
            assert unknown.status_code == 503
            assert "may have been done or not" in unknown.json()["detail"]
            assert unknown.headers["Retry-After"] == "1"
            again = await ada.post(path, json=body, headers=key)
        assert again.status_code == 201
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json()["balance"] == f"{7 * attempt}.00"

    async def test_a_request_gets_503_while_the_database_is_away(
        self, fragile: Fragile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        billing, user = fragile.billing, a_user()
        for made in billing.service.committers.values():
            monkeypatch.setattr(made, "_timeout", 0.2)
        await fragile.database.refuse()
        async with billing.http(user) as ada:
            answer = await ada.post(f"/account/{user.id}/deposit", json={"amount": 7})
            assert answer.status_code == 503, answer.text
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["reason"] == "unavailable"
            await fragile.database.accept()
            assert (await ada.get(f"/account/{user.id}")).json()["balance"] == "0.00"

    async def test_requests_are_accepted_while_the_broker_is_away_and_published_later(
        self,
        fragile: Fragile,
    ) -> None:
        billing, user = fragile.billing, a_user()
        await fragile.broker.refuse()
        await billing.is_ready(503)
        await deposit(billing, user, 5)
        assert await billing.value("SELECT count(*) FROM outbox") == 2
        assert billing.published == []
        rows = orders_of(user, 3)
        await billing.receives(*rows)
        await fragile.broker.accept()
        await all_are_paid_once(billing, rows)
        await billing.publishes(5)

    async def test_dead_letters_are_counted_again_once_the_broker_is_back(
        self, fragile: Fragile
    ) -> None:
        service, dead = fragile.billing.service, gauges.MESSAGES.labels("billing.dead")
        dead.set(7)
        await fragile.broker.refuse()
        await fragile.billing.is_ready(503)
        await gauges.measure_dead_letters(service.broker, "billing")
        assert dead._value.get() == 7
        await fragile.broker.accept()

        async def counted() -> None:
            await gauges.measure_dead_letters(service.broker, "billing")
            assert dead._value.get() == 0

        await eventually(counted)

    async def test_events_are_processed_once_although_broker_connections_are_cut(
        self,
        fragile: Fragile,
    ) -> None:
        billing, user = fragile.billing, a_user()
        await deposit(billing, user)
        rows = orders_of(user, 150)
        for start in range(0, 150, 50):
            await billing.receives(*rows[start : start + 50])
            fragile.broker.cut()
        await all_are_paid_once(billing, rows)

    async def test_a_silent_database_connection_is_replaced(
        self, install_chorus: Install, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(databases, "COMMAND_SECONDS", 1.0)
        installation = await install_chorus("silence", "billing")
        url = installation.database_url("billing")
        async with Proxy.before(url) as proxy:
            database = Database(proxy.url(url), "billing", size=1)
            await database.open()
            idempotent = GroupCommitter(database.pool, _answer, name="silence", on_commit=())
            try:
                assert await idempotent.submit(1) == 1
                proxy.freeze()
                waiting = idempotent.submit(2)
                async with asyncio.timeout(20):
                    with pytest.raises(TimeoutError):
                        await database.pool.execute("SELECT true")
                proxy.cut()  # frozen connections stay lost, new ones are accepted
                proxy.thaw()
                async with asyncio.timeout(20):
                    assert await waiting == 2
            finally:
                await database.close()

    async def test_a_service_without_a_free_connection_is_not_ready_within_the_timeout(
        self, fragile: Fragile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(databases, "CHECK_SECONDS", 0.1)
        database = fragile.billing.service.database
        async with AsyncExitStack() as taken:
            for _ in range(database.pool.get_max_size()):
                await taken.enter_async_context(database.pool.acquire())
            await fragile.billing.is_ready(503)
            asked = database._check
            await fragile.billing.is_ready(503)
            assert database._check is asked  # no second request waits for a connection
        await fragile.billing.is_ready(200)
