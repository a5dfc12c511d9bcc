"""The broker dead-letters a message that kills its consumer, and no other message."""

import json
import os
import sys
from pathlib import Path
from typing import Final

import pytest

from chassis.messaging import topology
from chassis.messaging.outbox import Row
from chassis.messaging.topology import DEAD, queue_name
from events.money import to_text
from events.orders import OrderPlaced
from tests.support import crashing_service
from tests.support.broker import Broker
from tests.support.builders import an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tools.children import Child

DELIVERIES: Final = 16
"""Lower than in production, where it is a hundred: the test is faster."""

QUEUE: Final = queue_name("billing", OrderPlaced)
FATAL: Final = to_text(crashing_service.FATAL)


@pytest.fixture
async def chorus(install_chorus: Install, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setattr(topology, "DELIVERY_LIMIT", DELIVERIES)
    return await install_chorus("killers", "billing")


def orders(count: int, *, fatal: int) -> list[Row]:
    """Orders; handling one of them kills the process."""
    totals = [FATAL if number == fatal else "1.00" for number in range(count)]
    return [outbox_row(OrderPlaced(order=an_order(total=total))) for total in totals]


async def die_often(
    chorus: Installation, broker: Broker, folder: Path, *, seconds_each: float = 0
) -> None:
    """Restart the service until its queue is empty."""
    own = {crashing_service.VARIABLE: str(seconds_each)}
    service = Child(
        "crashing_service",
        [sys.executable, "-m", "tests.support.crashing_service"],
        log=folder / "crashing_service.log",
        environment=dict(os.environ) | chorus.environment | own,
        folder=Path(__file__).parents[4],
    )
    service.start()

    async def done() -> bool:
        return service.exit_status == 0 and await broker.waiting(QUEUE) == 0

    try:
        await eventually(done, within=90, what="the queue is not empty")
    finally:
        service.kill()


@pytest.mark.parametrize("seconds_each", [0, 0.3], ids=["quick", "slow"])
async def test_a_message_that_kills_its_consumer_is_dead_lettered_alone(
    chorus: Installation, tmp_path: Path, seconds_each: float
) -> None:
    """A slow consumer prefetches all redelivered messages at once, so each crash could count against all of them."""
    broker = Broker(chorus.amqp_admin_url)
    await broker.open()
    await broker.publish(*orders(40, fatal=0))

    await die_often(chorus, broker, tmp_path, seconds_each=seconds_each)

    [dead_letter] = await broker.dead_letter("billing")
    assert json.loads(dead_letter.body)["order"]["total"] == FATAL
    assert dead_letter.headers["x-first-death-queue"] == QUEUE
    assert dead_letter.headers["x-first-death-reason"] == "delivery_limit"
    await broker.close()


async def test_an_event_that_kills_its_consumer_does_not_affect_the_rest_of_its_batch(
    chorus: Installation, tmp_path: Path
) -> None:
    broker = Broker(chorus.amqp_admin_url)
    await broker.open()
    [*rows] = await broker.publish(*orders(30, fatal=10), as_batch=True)

    await die_often(chorus, broker, tmp_path)

    batch = await broker.take(f"billing.{DEAD}")
    assert batch is not None
    assert batch.headers["batch_size"] == len(rows)
    known = await _inbox(chorus)
    assert known >= {row.id for row in rows} - {rows[10].id}
    assert rows[10].id not in known
    await broker.close()


async def _inbox(chorus: Installation) -> set[object]:
    import asyncpg

    connection = await asyncpg.connect(chorus.database_admin_url("billing"))
    try:
        return {
            record[0] for record in await connection.fetch("SELECT event_id FROM processed_events")
        }
    finally:
        await connection.close()
