"""The relay: what is committed is published, whatever fails on the way."""

import asyncpg
import pytest
from aio_pika.exceptions import DeliveryError

from chassis.database.transaction import transaction
from chassis.messaging import outbox
from chassis.messaging import relay as relay_module
from chassis.messaging.message import BATCH
from chassis.messaging.publisher import RETURNED, Publisher, publication, reason
from chassis.messaging.relay import FAILED
from chassis.messaging.topology import queue_name
from events.orders import OrderCancelled, OrderPaid, OrderPlaced
from tests.support.broker import Tap
from tests.support.builders import an_order, outbox_row
from tests.support.relay_harness import RelayHarness, placed


@pytest.fixture
def no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "SWEEP_SECONDS", 3600.0)


async def unbind(tap: Tap) -> None:
    queue = await tap._broker.channel.get_queue(tap._queue, ensure=False)
    await queue.unbind("orders", "#")


class TestRelay:
    """From the outbox to the broker."""

    async def test_a_confirmed_row_is_deleted_in_the_transaction_that_published_it(
        self,
        harness: RelayHarness,
    ) -> None:
        [event] = placed(1)
        await harness.commits(event)
        assert await harness.relays_once() == 1
        await harness.tap.flush()
        assert harness.published == [event]
        assert await harness.waiting() == 0

    async def test_a_rolled_back_transaction_leaves_no_row(self, harness: RelayHarness) -> None:
        async def fails_at_the_end() -> None:
            async with transaction(harness.pool) as tx:
                tx.outbox.append(outbox_row(placed(1)[0]))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails_at_the_end()
        assert await harness.waiting() == 0
        assert await harness.relays_once() == 0

    async def test_waiting_rows_are_published_in_batches_of_at_most_64_per_routing_key(
        self,
        harness: RelayHarness,
    ) -> None:
        orders = placed(150)
        alone = OrderPaid(order=an_order(status="paid", version=2))
        await harness.commits(*orders[:100], alone, *orders[100:])
        assert await harness.relays_once() == 151
        await harness.tap.flush()
        batches = [m for m in harness.tap.messages if m.content_type == BATCH]
        [plain] = [m for m in harness.tap.messages if m.content_type == outbox.JSON]
        assert [batch.headers for batch in batches] == [{"batch_size": n} for n in (64, 64, 22)]
        assert {(p.type, p.app_id, p.delivery_mode) for p in batches} == {
            ("OrderPlaced", "orders", 2)
        }
        assert plain.type == "OrderPaid"
        assert [event for event in harness.published if isinstance(event, OrderPlaced)] == orders

    async def test_a_failed_commit_after_the_confirm_publishes_the_same_events_again(
        self, harness: RelayHarness
    ) -> None:
        await harness.commits(*placed(3))
        await harness.pool.execute("""
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'crash after confirm'; END $$;
            CREATE CONSTRAINT TRIGGER fail AFTER DELETE ON outbox
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail();
        """)
        try:
            with pytest.raises(asyncpg.RaiseError, match="crash after confirm"):
                await harness.relays_once()
        finally:
            await harness.pool.execute("DROP TRIGGER fail ON outbox; DROP FUNCTION fail")
        assert await harness.waiting() == 3
        assert await harness.relays_once() == 3
        await harness.tap.flush()
        received = [(event.id, event.event, event.time) for event in harness.tap.received]
        assert len(received) == 6
        assert received[:3] == received[3:]

    async def test_a_row_that_commits_late_is_published_after_younger_ones(
        self,
        harness: RelayHarness,
    ) -> None:
        early, late = placed(2)
        async with transaction(harness.pool) as tx:
            tx.outbox.append(outbox_row(early))
            await harness.commits(late)
            assert await harness.relays_once() == 1
        assert await harness.relays_once() == 1
        await harness.tap.flush()
        assert harness.published == [late, early]

    async def test_unroutable_rows_stay_in_the_outbox_and_others_are_published(
        self,
        harness: RelayHarness,
    ) -> None:
        stopped = OrderCancelled(order=an_order(status="cancelled"))
        unsubscribed = OrderPaid(order=an_order(status="paid", version=2))
        returned = FAILED.labels("outbox", RETURNED)._value
        before = returned.get()
        await harness.commits(stopped, unsubscribed, *placed(2))
        await unbind(harness.tap)  # it is bound to everything
        cancellations = await harness.broker.channel.get_queue(
            queue_name("billing", OrderCancelled), ensure=False
        )
        await cancellations.unbind("orders", OrderCancelled.key)
        try:
            async with harness.broker.tap("orders", OrderPlaced.key) as tap:
                assert await harness.relays_once() == 4
                await tap.flush()
                assert len(tap.events) == 2
            [row] = await harness.pool.fetch(
                "SELECT routing_key FROM outbox JOIN event_log USING (id)"
            )
            assert row["routing_key"] == OrderCancelled.key
            assert returned.get() == before + 1
            assert await harness.relays_once() == 0, "its retry is delayed"
        finally:
            await cancellations.bind("orders", OrderCancelled.key)
        await harness.pool.execute("UPDATE outbox SET retry_at = now()")
        assert await harness.relays_once() == 1
        assert await harness.waiting() == 0
        assert returned.get() == before + 1

    async def test_rows_for_a_full_queue_stay_in_the_outbox_and_others_are_published(
        self, harness: RelayHarness
    ) -> None:
        channel = await harness.broker._connection.channel()  # type: ignore[union-attr]
        full = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await full.bind("orders", OrderCancelled.key)
        await harness.commits(
            *(OrderCancelled(order=an_order(status="cancelled")) for _ in range(2))
        )
        assert await harness.relays_once() == 2, "as one message batch, which fills the queue"
        await harness.commits(OrderCancelled(order=an_order(status="cancelled")), *placed(1))
        assert await harness.relays_once() == 2
        [row] = await harness.pool.fetch("SELECT routing_key FROM outbox JOIN event_log USING (id)")
        assert row["routing_key"] == OrderCancelled.key
        await full.purge()
        await harness.pool.execute("UPDATE outbox SET retry_at = now()")
        assert await harness.relays_once() == 1
        assert await harness.waiting() == 0
        await channel.queue_delete(full.name)
        await channel.close()

    async def test_two_relays_on_one_database_publish_each_event_once(
        self, harness: RelayHarness
    ) -> None:
        async with harness.relaying() as one, harness.relaying() as other:
            for _ in range(40):
                await harness.commits(*placed(25))
                one.wake()
                other.wake()
            await harness.is_empty()
        ids = [event.id for event in harness.tap.received]
        assert len(ids) == len(set(ids)) == 1000

    @pytest.mark.usefixtures("no_sweep")
    async def test_a_woken_relay_publishes_at_once(self, harness: RelayHarness) -> None:
        async with harness.relaying() as relay:
            await harness.is_empty()
            await harness.commits(*placed(1))
            relay.wake()
            await harness.is_empty()
        assert len(harness.published) == 1

    async def test_polling_finds_rows_that_a_crash_left(self, harness: RelayHarness) -> None:
        await harness.commits(*placed(3))
        async with harness.relaying():
            await harness.is_empty()
            await harness.commits(*placed(3))  # without waking the relay
            await harness.is_empty()
        assert len(harness.published) == 6

    async def test_refused_rows_that_fill_a_transaction_do_not_delay_others(
        self, harness: RelayHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "TAKE_LIMIT", 2)
        channel = harness.broker.channel
        full = await channel.declare_queue(
            "tests.full",
            auto_delete=True,
            arguments={"x-max-length": 0, "x-overflow": "reject-publish"},
        )
        await full.bind("orders", OrderPlaced.key)
        refused, other = placed(2), OrderPaid(order=an_order(status="paid", version=2))
        try:
            for event in (*refused, other):
                await harness.commits(event)  # a row each
            assert await harness.relays_once() == 2, "all of them refused"
            assert await harness.relays_once() == 1
            await harness.tap.flush()
            assert harness.published[-1] == other
            assert await harness.waiting() == 2
        finally:
            await channel.queue_delete("tests.full")
        await harness.pool.execute("UPDATE outbox SET retry_at = now()")
        assert await harness.relays_once() == 2
        assert await harness.waiting() == 0


class TestPublisher:
    """The relay's connection."""

    async def test_a_refusal_is_followed_by_a_new_channel(self, harness: RelayHarness) -> None:
        """A channel that knew the queue's former leader may refuse every publish that the queue would accept."""
        channel = await harness.broker._connection.channel()  # type: ignore[union-attr]
        full = await channel.declare_queue(
            exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}
        )
        await full.bind("orders", OrderCancelled.key)
        publisher = Publisher(harness.installation.amqp_url("orders"), "tests")
        cancelled, [placed_now] = OrderCancelled(order=an_order(status="cancelled")), placed(1)
        try:
            for event, refused in ((placed_now, False), (cancelled, True), (placed_now, False)):
                row = outbox_row(event)
                [error] = await publisher.publish([publication([row])])
                assert isinstance(error, DeliveryError) == refused
                assert (publisher._channel is None) == refused
                assert publisher._connection is not None
        finally:
            await publisher.close()
            await channel.queue_delete(full.name)
            await channel.close()

    async def test_a_returned_message_leaves_the_channel_open(self, harness: RelayHarness) -> None:
        publisher = Publisher(harness.installation.amqp_url("orders"), "tests")
        [row] = [outbox_row(placed(1)[0])]
        await unbind(harness.tap)
        try:
            assert await publisher.publish([publication([row])]) == [None]
            channel = publisher._channel
            message = publication([row])._replace(routing_key="nobody.is.bound")
            [error] = await publisher.publish([message])
            assert error is not None
            assert reason(error) == RETURNED
            assert publisher._channel is channel
            assert await publisher.publish([message._replace(mandatory=False)]) == [None]
        finally:
            await publisher.close()
