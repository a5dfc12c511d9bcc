"""The windows in which a crash is worst, one by one: what is true at the moment of death, and what after a restart."""

import asyncio
from uuid import UUID

import pytest

from chassis.messaging import message as wire
from chassis.messaging.topology import queue_name
from events.orders import OrderPlaced
from tests.stories.customers import Customer
from tests.stories.journal import outbox_row_of
from tests.stories.lanes import Lane
from tests.stories.stack import Stack
from tests.support.broker import Tap
from tests.support.eventually import eventually
from tests.support.processes import ServiceProcess
from tests.support.proxy import Proxy

PLACED = "OrderPlaced"
WAITING = (
    "SELECT count(*) FROM outbox JOIN event_log USING (id) WHERE routing_key = 'order-placed.v1'"
)
CHARGED = "SELECT count(*) FROM charges WHERE order_id = ANY($1)"
PROCESSED = {"name": "chorus_inbox_processed_total", "queue": "billing.order-placed"}
DUPLICATES = {"name": "chorus_inbox_duplicates_total", "queue": "billing.order-placed"}


@pytest.fixture
async def ada(crashable: Stack) -> Customer:
    return await crashable.customer(deposit="100.00")


async def is_paid_once(ada: Customer, *orders: UUID) -> None:
    """Each of these orders, of 1.00 and the only ones of this customer, is paid and has one e-mail."""
    for order in orders:
        assert (await ada.settled(order))["status"] == "paid"
    assert await ada.balance() == f"{100 - len(orders)}.00"
    await ada.mail(len(orders))


def copies(tap: Tap, order: UUID) -> list[UUID]:
    """The ids of the events about an order as they came from the broker, one for each copy."""
    return [received.id for received in tap.received if received.event.subject == str(order)]


async def test_a_committed_unpublished_event_is_published_after_the_restart(
    crashable: Stack, ada: Customer
) -> None:
    lane = Lane(crashable, "orders", "committer.after_commit")
    async with crashable.broker.tap("orders", OrderPlaced.key) as tap:
        await lane.armed(PLACED)
        ordering = asyncio.create_task(ada.order_whatever_happens("1.00"))
        await lane.died(PLACED)
        await tap.flush()
        assert tap.messages == []
        assert await crashable.value("orders", WAITING) == 1

        await lane.restarted()
        order = await ordering
        await is_paid_once(ada, order)
        await tap.flush()
        assert len(copies(tap, order)) == 1


async def came_again(chorus: Stack, process: ServiceProcess, times: float) -> None:
    """Wait until a process has counted so many duplicates. Redelivery by the broker takes time."""

    async def counted() -> None:
        assert await chorus.metric(process, **DUPLICATES) == times

    await eventually(counted)


async def test_an_event_whose_confirm_was_not_recorded_is_redelivered_and_has_one_effect(
    crashable: Stack, ada: Customer
) -> None:
    lane = Lane(crashable, "orders", "relay.after_confirm")
    before = await crashable.metric(crashable["billing"], **DUPLICATES)
    async with crashable.broker.tap("orders", OrderPlaced.key) as tap:
        await lane.armed(PLACED)
        ordering = asyncio.create_task(ada.order_whatever_happens("1.00"))
        await lane.died(PLACED)
        await tap.flush()
        assert len(tap.messages) == 1
        assert await crashable.value("orders", WAITING) == 1

        await lane.restarted()
        order = await ordering
        await is_paid_once(ada, order)
        await crashable.is_quiet()
        await tap.flush()
        assert len(copies(tap, order)) == 2
        assert len(set(copies(tap, order))) == 1
    await came_again(crashable, crashable["billing"], before + 1)


async def test_a_processed_unacknowledged_event_is_redelivered_and_has_one_effect(
    crashable: Stack, ada: Customer
) -> None:
    lane = Lane(crashable, "billing", "inbox.before_ack")
    await lane.armed(PLACED)
    order = await ada.order("1.00")
    await lane.died(PLACED)
    assert await crashable.value("billing", CHARGED, [order]) == 1

    await lane.restarted()
    await is_paid_once(ada, order)
    await crashable.is_quiet()
    await came_again(crashable, lane.process, 1)
    assert await crashable.metric(lane.process, **PROCESSED) == 0


async def test_an_order_whose_commits_are_unanswered_is_charged_once(
    crashable: Stack, ada: Customer
) -> None:
    url = crashable.installation.database_url("billing")
    crashable["billing"].kill()
    async with Proxy.before(url) as proxy:
        own = {"CHORUS_DATABASE_URL_BILLING": proxy.url(url)}
        async with crashable.replica("billing", **own) as billing:
            proxy.lose_reply_to(b"COMMIT", times=1_000)
            order = await ada.order("1.00")

            async def done_and_nobody_knows() -> bool:
                return bool(await crashable.value("billing", CHARGED, [order]) == 1)

            await eventually(done_and_nobody_knows)
            assert await crashable.metric(billing, **PROCESSED) == 0
            proxy.lose_reply_to(b"COMMIT", times=0)
            assert (await ada.settled(order))["status"] == "paid"
            await crashable.is_quiet()
            assert await crashable.metric(billing, **PROCESSED) == 0
            await came_again(crashable, billing, 1)
    await crashable.heal()
    await is_paid_once(ada, order)


@pytest.mark.parametrize(
    ("point", "done"),
    [
        ("committer.after_begin", False),
        ("inbox.after_mark_processed", False),
        ("committer.before_commit", False),
        ("committer.after_commit", True),
    ],
)
async def test_a_batch_interrupted_by_a_crash_is_atomic(
    crashable: Stack, ada: Customer, point: str, done: bool
) -> None:
    lane = Lane(crashable, "billing", point)
    async with crashable.broker.withheld(OrderPlaced, "billing"):
        orders = [await ada.order("1.00") for _ in range(20)]

        async def published() -> bool:
            await crashable.journal.up_to_now()
            return len(batch()) == len(orders)

        def batch() -> list[UUID]:
            events = crashable.journal.events(OrderPlaced)
            return [event.id for event in events if UUID(event.event.subject) in orders]

        await eventually(published)
        rows = [outbox_row_of(e) for e in crashable.journal.events(OrderPlaced) if e.id in batch()]
        await lane.armed(PLACED)
        await crashable.broker.send(wire.to_message(rows), "", queue_name("billing", OrderPlaced))
        await lane.died(PLACED)
        known = set(batch()) & await crashable.inbox("billing")
        charged = await crashable.value("billing", CHARGED, orders)
        assert (len(known), charged) == ((20, 20) if done else (0, 0))
    await lane.restarted()
    await is_paid_once(ada, *orders)
