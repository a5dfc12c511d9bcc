"""The inbox deduplicates: the consumer of these tests has no other protection against duplicate effects."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from uuid import UUID

import pytest
from fastapi import APIRouter
from uuid_utils.compat import uuid7

from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Subscription
from chassis.runtime.service import create_app
from chassis.web.auth import store_signing_keys
from events.base import Envelope
from events.orders import OrderPlaced
from events.users import SigningKeyPublished
from tests.support.builders import an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService


async def count(tx: Transaction, received: Sequence[Envelope[OrderPlaced]]) -> None:
    """Insert a row for each event; a duplicate event inserts a second row."""
    ids = [event.id for event in received]
    await tx.execute("INSERT INTO effects SELECT unnest($1::uuid[])", ids)
    if any(event.event.order.total == FAILING_TOTAL for event in received):
        raise RuntimeError("it disagrees with me")


FAILING_TOTAL = 666


@pytest.fixture(scope="module")
async def replicas(install_chorus: Install) -> AsyncIterator[list[RunningService]]:
    """Two replicas of the service, on one database and one broker."""
    installation = await install_chorus("effects", "billing")
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            app = create_app(
                "billing",
                description="",
                router=APIRouter(),
                subscriptions=(
                    Subscription(SigningKeyPublished, store_signing_keys),
                    Subscription(OrderPlaced, count),
                ),
            )
            service = RunningService("billing", app, installation)
            made.append(await stack.enter_async_context(service.running()))
        await made[0].rows("CREATE TABLE effects (event_id uuid)")
        await made[0].rows(f"GRANT ALL ON effects TO {installation.login('billing')}")
        yield made


@pytest.fixture
async def service(replicas: list[RunningService]) -> AsyncIterator[RunningService]:
    async with replicas[0].observed() as service:
        yield service
    await replicas[0].rows("TRUNCATE effects")


async def effects(service: RunningService) -> list[str]:
    return [str(row["event_id"]) for row in await service.rows("SELECT event_id FROM effects")]


async def test_a_hundred_events_published_six_times_at_once_to_two_replicas_have_a_hundred_effects(
    service: RunningService,
) -> None:
    rows = [outbox_row(OrderPlaced(order=an_order())) for _ in range(100)]
    await asyncio.gather(
        *(service.receives(*rows) for _ in range(3)),
        *(service.receives(*rows, as_batch=True) for _ in range(3)),
    )
    await service.has_processed(*rows)
    assert sorted(await effects(service)) == sorted(str(row.id) for row in rows)


async def test_an_event_processed_by_a_concurrent_replica_has_one_effect(
    service: RunningService,
) -> None:
    """A check before the write does not see rows that are not committed yet."""
    row = outbox_row(OrderPlaced(order=an_order()))
    async with service.meanwhile() as other:
        await other.execute(
            "INSERT INTO inbox VALUES (event_group($1), 'orders', event_member($1), now())", row.id
        )
        await service.receives(row)
        await service.is_blocked()
    await service.has_processed(row)
    assert await effects(service) == []


@pytest.mark.parametrize("first", range(4))
async def test_events_of_one_group_are_deduplicated_alone_and_in_other_batches(
    service: RunningService, first: int
) -> None:
    """Each order of arrival: alone, then in a batch of some, then all; the last bit of a row is its sign."""
    group = uuid7().int // 64 * 64
    numbers = [0, 31, 62, 63]
    rows = [outbox_row(OrderPlaced(order=an_order()), id=UUID(int=group + n)) for n in numbers]
    await service.processes(rows[first])
    await service.processes(*rows[1:3], as_batch=True)
    await service.processes(*rows, as_batch=True)
    for row in rows:
        await service.processes(row)
    assert sorted(await effects(service)) == sorted(str(row.id) for row in rows)
    assert await service.value("SELECT count(*) FROM inbox WHERE id = $1", UUID(int=group)) == 1


async def test_another_publishers_event_with_the_same_id_is_processed(
    service: RunningService,
) -> None:
    """A service that uses an id first cannot make a consumer skip the event of another one."""
    row = outbox_row(OrderPlaced(order=an_order()))
    await service.processes(outbox_row(service.signer.published(), id=row.id))
    await service.receives(row)

    async def processed() -> None:
        assert await effects(service) == [str(row.id)]

    await eventually(processed)


async def test_an_event_twice_in_one_message_batch_has_one_effect(
    service: RunningService,
) -> None:
    [row] = [outbox_row(OrderPlaced(order=an_order()))]
    await service.processes(row, row, as_batch=True)
    assert await effects(service) == [str(row.id)]


async def test_a_failed_event_leaves_no_effect_and_no_inbox_row(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.messaging.retries.RETRY_DELAYS", (0.01,))
    bad = outbox_row(OrderPlaced(order=an_order(total="6.66")))
    good = [outbox_row(OrderPlaced(order=an_order())) for _ in range(20)]
    await service.receives(*good[:10], bad, *good[10:], as_batch=True)
    [dead_letter] = await service.dead_letters(1)
    await service.has_processed(*good)
    assert dead_letter.message_id == str(bad.id)
    assert sorted(await effects(service)) == sorted(str(row.id) for row in good)
    assert await service.rows("SELECT 1 FROM processed_events WHERE event_id = $1", bad.id) == []


async def test_a_dead_lettered_event_published_again_has_one_effect(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chassis.messaging.retries.RETRY_DELAYS", (0.01,))
    bad = outbox_row(OrderPlaced(order=an_order(total="6.66")))
    await service.receives(bad)
    [dead_letter] = await service.dead_letters(1)
    monkeypatch.setattr("tests.integration.chassis.messaging.test_inbox.FAILING_TOTAL", -1)
    for _ in range(2):
        await service.broker.channel.default_exchange.publish(
            dead_letter, str(dead_letter.headers["dead_letter_queue"])
        )
    await service.has_processed(bad)
    assert await effects(service) == [str(bad.id)]
