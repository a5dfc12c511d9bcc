"""Events on the broker as a service publishes them: names, properties and headers."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aio_pika import DeliveryMode
from aio_pika.abc import AbstractIncomingMessage

from chassis.messaging.message import BATCH
from chassis.messaging.topology import JOURNAL_PREFIX
from events.billing import AccountOpened
from events.orders import OrderPlaced
from events.users import UserRegistered
from tests.support.broker import opened
from tests.support.builders import a_user, an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.harness import RunningService

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_single_order_is_one_plain_message_with_all_properties(
    orders: RunningService,
) -> None:
    user = a_user()
    await orders.processes(UserRegistered(user=user))
    async with orders.http(user) as ada:
        answer = await ada.post(
            "/order/create",
            json={"totalPrice": "12.50"},
            headers={"X-Correlation-Id": "story-1", "traceparent": TRACE},
        )
    assert answer.headers["X-Correlation-Id"] == "story-1"
    order_id = answer.json()["orderId"]
    await orders.publishes(1)

    [message] = orders.tap.messages
    assert message.exchange == "orders"
    assert message.routing_key == "order-placed.v1"
    assert message.type == "OrderPlaced"
    assert message.app_id == "orders"
    assert message.correlation_id == "story-1"
    assert message.content_type == "application/json"
    assert message.delivery_mode == DeliveryMode.PERSISTENT
    assert message.timestamp is not None
    assert abs(message.timestamp.astimezone(UTC) - datetime.now(UTC)) < timedelta(seconds=30)
    assert message.message_id is not None
    assert UUID(message.message_id).version == 7
    assert message.headers == {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": message.message_id,
        "cloudEvents_type": "OrderPlaced",
        "cloudEvents_source": "/chorus/orders",
        "cloudEvents_subject": order_id,
        "cloudEvents_time": message.headers["cloudEvents_time"],
        "cloudEvents_dataschema": "urn:chorus:orders:order-placed:v1",
        "traceparent": TRACE,
    }
    assert json.loads(message.body) == {
        "order": {
            "id": order_id,
            "userId": str(user.id),
            "total": "12.50",
            "currency": "EUR",
            "status": "pending",
            "reason": None,
            "placedAt": message.headers["cloudEvents_time"],
            "version": 1,
        },
    }


async def test_following_events_carry_causation_and_correlation(billing: RunningService) -> None:
    placed = outbox_row(
        OrderPlaced(order=an_order(total="1.00")), correlation_id="story-2", traceparent=TRACE
    )
    await billing.processes(placed)
    opened, rejected = billing.tap.messages
    for message in (opened, rejected):
        assert message.correlation_id == "story-2"
        assert message.headers["causation_id"] == str(placed.id)
        assert message.headers["traceparent"] == TRACE
    assert (opened.type, rejected.type) == ("AccountOpened", "PaymentRejected")


async def test_a_batch_keeps_the_causation_of_each_event(
    billing: RunningService,
) -> None:
    user = a_user()
    async with billing.http(user) as ada:
        await ada.post(f"/account/{user.id}/deposit", json={"amount": "64.00"})
    rows = [
        outbox_row(
            OrderPlaced(order=an_order(total="1.00", user=user)), correlation_id=f"story-{n}"
        )
        for n in range(64)
    ]
    await billing.processes(*rows, as_batch=True)
    [batch] = [m for m in billing.tap.messages if m.type == "PaymentSucceeded"]
    assert batch.content_type == BATCH
    assert batch.headers == {"batch_size": 64}
    assert batch.app_id == "billing"
    assert batch.delivery_mode == DeliveryMode.PERSISTENT
    items = json.loads(batch.body)
    assert [(i["correlationid"], i["causationid"]) for i in items] == [
        (row.attributes["correlationid"], str(row.id)) for row in rows
    ]
    assert set(items[0]) == {
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "dataschema",
        "datacontenttype",
        "correlationid",
        "causationid",
        "data",
    }
    assert len({item["id"] for item in items}) == 64


async def test_the_journal_keeps_all_published_events(billing: RunningService) -> None:
    user = a_user()
    [registered] = await billing.processes(UserRegistered(user=user))
    channel = billing.broker.channel
    await channel.set_qos(prefetch_count=100)
    journal = await channel.get_queue("journal", ensure=False)
    kept: list[AbstractIncomingMessage] = []

    async def keep(message: AbstractIncomingMessage) -> None:
        await message.ack()
        kept.append(message)

    tag = await journal.consume(keep, arguments={"x-stream-offset": "first"})

    async def found() -> None:
        flow = registered.attributes["correlationid"]
        keys = {
            type(received.event): message.routing_key
            for message in kept
            if flow in (message.correlation_id or message.body.decode())  # others' may be malformed
            for received in opened(message)
            if received.cause.correlation_id == flow
        }
        assert keys == {
            kind: f"{JOURNAL_PREFIX}{kind.key}" for kind in (UserRegistered, AccountOpened)
        }

    await eventually(found)
    await journal.cancel(tag)
