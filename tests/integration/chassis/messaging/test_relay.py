"""The relay: what is committed is published, whatever fails on the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import pytest
from aio_pika.exceptions import DeliveryError

from chassis.database.pool import Database
from chassis.database.transaction import transaction
from chassis.messaging import outbox
from chassis.messaging import relay as relay_module
from chassis.messaging.message import BATCH, to_message
from chassis.messaging.publisher import Publication, Publisher
from chassis.messaging.relay import UNROUTABLE, BrokerAwayError, Relay
from chassis.messaging.topology import JOURNAL
from events.orders import OrderCancelled, OrderPaid, OrderPlaced
from tests.support.broker import Broker, Tap
from tests.support.builders import an_order, told
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.office import Office, placed
from tests.support.proxy import Proxy


@pytest.fixture(scope="module")
async def open_office(install_chorus: Install) -> AsyncIterator[Office]:
    installation = await install_chorus("relay", "orders")
    database = Database(installation.database_url("orders"), "orders")
    await database.open()
    broker = Broker(installation.amqp_admin_url)
    await broker.open()
    async with asyncpg.create_pool(installation.database_admin_url("orders"), min_size=1) as pool:
        yield Office(installation, pool, database.pool, broker)
    await broker.close()
    await database.close()


@pytest.fixture
async def office(open_office: Office) -> AsyncIterator[Office]:
    async with open_office.broker.tap("orders") as open_office.tap:
        yield open_office
    await open_office.pool.execute("DELETE FROM outbox")


@pytest.fixture
async def administrator(office: Office) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(office.installation.database_admin_url("orders"))
    yield connection
    await connection.close()


@pytest.fixture
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "SWEEP_SECONDS", 3600.0)


@contextlib.asynccontextmanager
async def without_the_journal(office: Office, exchange: str) -> AsyncIterator[None]:
    """Without the journal, events without a subscriber are unroutable."""
    journal = await office.broker.channel.get_queue(JOURNAL, ensure=False)
    await journal.unbind(exchange, "#")
    try:
        yield
    finally:
        await journal.bind(exchange, "#")


async def unbind(tap: Tap) -> None:
    queue = await tap._broker.channel.get_queue(tap._queue, ensure=False)
    await queue.unbind("orders", "#")


Outage = Callable[[Proxy], Awaitable[None]]


async def cut_off(proxy: Proxy) -> None:
    await proxy.refuse()


async def frozen(proxy: Proxy) -> None:
    proxy.freeze()


async def gives_up(relay: Relay) -> None:
    """Wait until the relay has closed its connection to retry later."""

    async def given_up() -> bool:
        return relay._publisher._connection is None

    await eventually(given_up)


class TestRelay:
    """From the outbox to the broker."""

    async def test_a_confirmed_row_is_deleted_in_the_transaction_that_published_it(
        self,
        office: Office,
    ) -> None:
        [event] = placed(1)
        await office.commits(event)
        assert await office.relays_once() == 1
        await office.tap.flush()
        assert office.published == [event]
        assert await office.waiting() == 0

    async def test_a_rolled_back_transaction_leaves_no_row(self, office: Office) -> None:
        async def fails_at_the_end() -> None:
            async with transaction(office.pool) as tx:
                tx.outbox.append(told(placed(1)[0]))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails_at_the_end()
        assert await office.waiting() == 0
        assert await office.relays_once() == 0

    async def test_waiting_rows_are_published_in_batches_of_at_most_64_per_routing_key(
        self,
        office: Office,
    ) -> None:
        orders = placed(150)
        alone = OrderPaid(order=an_order(status="paid", version=2))
        await office.commits(*orders[:100], alone, *orders[100:])
        assert await office.relays_once() == 151
        await office.tap.flush()
        batches = [m for m in office.tap.messages if m.content_type == BATCH]
        [plain] = [m for m in office.tap.messages if m.content_type == outbox.JSON]
        assert [batch.headers for batch in batches] == [{"batch_size": n} for n in (64, 64, 22)]
        assert {(p.type, p.app_id, p.delivery_mode) for p in batches} == {
            ("OrderPlaced", "orders", 2)
        }
        assert plain.type == "OrderPaid"
        assert [event for event in office.published if isinstance(event, OrderPlaced)] == orders

    async def test_a_failed_commit_after_the_confirm_publishes_the_same_events_again(
        self, office: Office, administrator: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await office.commits(*placed(3))
        await administrator.execute("""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'crash after confirm'; END $$;
            CREATE CONSTRAINT TRIGGER fail AFTER DELETE ON outbox
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail();
        """)
        try:
            with pytest.raises(asyncpg.RaiseError, match="crash after confirm"):
                await office.relays_once()
        finally:
            await administrator.execute("DROP TRIGGER fail ON outbox; DROP FUNCTION fail")
        assert await office.waiting() == 3
        assert await office.relays_once() == 3
        await office.tap.flush()
        received = [(event.id, event.event, event.time) for event in office.tap.received]
        assert len(received) == 6
        assert received[:3] == received[3:]

    async def test_a_row_that_commits_late_is_published_after_younger_ones(
        self,
        office: Office,
    ) -> None:
        early, late = placed(2)
        async with transaction(office.pool) as tx:
            tx.outbox.append(told(early))
            await office.commits(late)
            assert await office.relays_once() == 1
        assert await office.relays_once() == 1
        await office.tap.flush()
        assert office.published == [late, early]

    async def test_unroutable_rows_stay_in_the_outbox_and_others_are_published(
        self,
        office: Office,
    ) -> None:
        stopped = OrderPaid(order=an_order(status="paid", version=2))
        await office.commits(stopped, *placed(2))
        async with (
            without_the_journal(office, "orders"),
            office.broker.tap("orders", OrderPlaced.key) as tap,
        ):
            # The tap of this test is bound to everything.
            await unbind(office.tap)
            assert await office.relays_once() == 3
            await tap.flush()
            assert len(tap.events) == 2
            [row] = await office.pool.fetch("SELECT * FROM outbox")
            assert row["routing_key"] == OrderPaid.key
            assert UNROUTABLE._value.get() == 1
            assert await office.relays_once() == 0, "its retry is delayed"
        await office.pool.execute("UPDATE outbox SET retry_at = now()")
        assert await office.relays_once() == 1
        assert await office.waiting() == 0
        assert UNROUTABLE._value.get() == 0

    async def test_rows_for_a_full_queue_stay_in_the_outbox_and_others_are_published(
        self, office: Office
    ) -> None:
        channel = await office.broker._connection.channel()  # type: ignore[union-attr]
        full = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await full.bind("orders", OrderCancelled.key)
        await office.commits(
            *(OrderCancelled(order=an_order(status="cancelled")) for _ in range(2))
        )
        assert await office.relays_once() == 2, "as one message batch, which fills the queue"
        await office.commits(OrderCancelled(order=an_order(status="cancelled")), *placed(1))
        assert await office.relays_once() == 2
        [row] = await office.pool.fetch("SELECT routing_key, retry_at FROM outbox")
        assert row["routing_key"] == OrderCancelled.key
        await full.purge()
        await office.pool.execute("UPDATE outbox SET retry_at = now()")
        assert await office.relays_once() == 1
        assert await office.waiting() == 0
        await channel.queue_delete(full.name)
        await channel.close()

    async def test_two_relays_on_one_database_publish_each_event_once(self, office: Office) -> None:
        async with office.relaying() as one, office.relaying() as other:
            for _ in range(40):
                await office.commits(*placed(25))
                one.wake()
                other.wake()
            await office.is_empty()
        ids = [event.id for event in office.tap.received]
        assert len(ids) == len(set(ids)) == 1000

    @pytest.mark.usefixtures("no_sweep")
    async def test_a_woken_relay_publishes_at_once(self, office: Office) -> None:
        async with office.relaying() as relay:
            await office.is_empty()
            await office.commits(*placed(1))
            relay.wake()
            await office.is_empty()
        assert len(office.published) == 1

    async def test_polling_finds_rows_that_a_crash_left(self, office: Office) -> None:
        await office.commits(*placed(3))
        async with office.relaying():
            await office.is_empty()
            await office.commits(*placed(3))  # without waking the relay
            await office.is_empty()
        assert len(office.published) == 6

    async def test_refused_rows_that_fill_a_transaction_do_not_delay_others(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "TAKE_LIMIT", 2)
        channel = office.broker.channel
        full = await channel.declare_queue(
            "tests.full",
            auto_delete=True,
            arguments={"x-max-length": 0, "x-overflow": "reject-publish"},
        )
        await full.bind("orders", OrderPlaced.key)
        refused, other = placed(2), OrderPaid(order=an_order(status="paid", version=2))
        try:
            await office.commits(*refused, other)
            assert await office.relays_once() == 2, "all of them refused"
            assert await office.relays_once() == 1
            await office.tap.flush()
            assert office.published[-1] == other
            assert await office.waiting() == 2
        finally:
            await channel.queue_delete("tests.full")
        await office.pool.execute("UPDATE outbox SET retry_at = now()")
        assert await office.relays_once() == 2
        assert await office.waiting() == 0

    async def test_unanswered_rows_stay_in_the_outbox_without_delay(
        self, office: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def silent(_: Publisher, publications: Sequence[Publication]) -> list[BaseException]:
            return [TimeoutError() for _ in publications]

        await office.commits(*placed(2))
        with monkeypatch.context() as patched:
            patched.setattr(Publisher, "publish", silent)
            with pytest.raises(BrokerAwayError):
                await office.relays_once()
        [row] = await office.pool.fetch("SELECT DISTINCT retry_at FROM outbox")
        assert row["retry_at"] is None
        assert await office.relays_once() == 2

    @pytest.mark.parametrize("away", [cut_off, frozen])
    async def test_a_relay_resumes_by_itself_when_the_broker_is_back(
        self, office: Office, away: Outage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("chassis.messaging.publisher.CONFIRM_SECONDS", 0.3)
        url = office.installation.amqp_url("orders")
        async with Proxy.before(url) as proxy, office.relaying(proxy.url(url)) as relay:
            await office.commits(*placed(1))
            relay.wake()
            await office.is_empty()
            await away(proxy)
            await office.commits(*placed(5))
            relay.wake()
            await gives_up(relay)
            assert await office.waiting() == 5
            if away is cut_off:
                await proxy.accept()
            proxy.thaw()
            await office.is_empty()
        assert len({event.id for event in office.tap.received}) == 6

    async def test_a_last_move_waits_for_the_one_in_progress(self, office: Office) -> None:
        """A service that stops calls `move` once more, then ends the relay: no publish may be in progress by then."""
        url = office.installation.amqp_url("orders")
        async with Proxy.before(url) as proxy, office.relaying(proxy.url(url)) as relay:
            await office.commits(*placed(1))
            relay.wake()
            await office.is_empty()
            proxy.freeze()
            await office.commits(*placed(1))
            relay.wake()
            await eventually(office.everything_is_taken)
            last = asyncio.create_task(relay.move())
            done, _ = await asyncio.wait([last], timeout=0.3)
            assert not done, "the publish in progress is neither confirmed nor given up"
            proxy.thaw()
            await last
            assert await office.waiting() == 0

    async def test_a_relay_survives_terminated_database_connections(
        self, office: Office, administrator: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        async with office.relaying() as relay:
            for _ in range(5):
                await office.commits(*placed(20))
                relay.wake()
                await administrator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
                    office.installation.login("orders"),
                )
                relay.wake()
            await office.is_empty()
        assert len({event.id for event in office.tap.received}) == 100


class TestPublisher:
    """The relay's connection."""

    async def test_a_refusal_is_followed_by_a_new_connection(self, office: Office) -> None:
        """A channel that knew the queue's former leader may refuse every publish that the queue would accept."""
        channel = await office.broker._connection.channel()  # type: ignore[union-attr]
        full = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
        )
        await full.bind("orders", OrderCancelled.key)
        publisher = Publisher(office.installation.amqp_url("orders"), "tests")
        cancelled, [placed_now] = OrderCancelled(order=an_order(status="cancelled")), placed(1)
        try:
            for event, refused in ((placed_now, False), (cancelled, True), (placed_now, False)):
                row = told(event)
                publication = (row.exchange, row.routing_key, to_message([row]))
                [error] = await publisher.publish([publication])
                assert isinstance(error, DeliveryError) == refused
                assert (publisher._connection is None) == refused
        finally:
            await publisher.close()
            await channel.queue_delete(full.name)
            await channel.close()
