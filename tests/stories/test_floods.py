"""Thousands of malformed messages arrive on every queue at once: orders settle, and each of the messages is kept."""

import asyncio
import json
import random
from collections import defaultdict
from typing import Final

import aio_pika

from apps import SERVICES
from chassis.messaging.message import BATCH
from chassis.messaging.topology import DEAD, queue_name
from ops.subscriptions import SUBSCRIPTIONS
from tests.stories.stack import Stack
from tests.support.eventually import eventually

EACH: Final = 150
"""Messages for each queue, 2,550 in all."""

ORDERS: Final = 20
SEED: Final = 20261202


def malformed(id: str, dice: random.Random) -> aio_pika.Message:
    """A message that no consumer can read, of a random kind."""
    whole = json.dumps({"order": {"id": id, "total": dice.random()}, "user": {"id": dice.random()}})
    kinds = {
        "truncated": (whole[: dice.randrange(len(whole))].encode(), "application/json"),
        "another type": (whole.encode(), "application/json"),
        "bytes": (dice.randbytes(dice.randrange(2_000)), "application/octet-stream"),
        "no JSON": (b"\xff" + whole.encode(), "application/json"),
        "a batch of anything": (json.dumps([dice.random(), whole]).encode(), BATCH),
        "a batch of events of another kind": (json.dumps([{"id": id, "data": {}}] * 3).encode(), BATCH),
        "too many": (json.dumps([0] * 10_000).encode(), BATCH),
    }  # fmt: skip
    body, content_type = dice.choice(list(kinds.values()))
    return aio_pika.Message(body, content_type=content_type, message_id=id)


async def flood(chorus: Stack) -> dict[str, set[str]]:
    """Send malformed messages to all queues; returns their ids by service."""
    dice = random.Random(SEED)
    sent: dict[str, set[str]] = defaultdict(set)
    queues = [(s, queue_name(s, kind)) for s in SERVICES for kind in SUBSCRIPTIONS[s]]
    for number in range(EACH):
        messages = [(f"{queue} {number}", service, queue) for service, queue in queues]
        await asyncio.gather(
            *(chorus.broker.send(malformed(id, dice), "", queue) for id, _, queue in messages)
        )
        for id, service, _ in messages:
            sent[service].add(id)
    return sent


async def dead(chorus: Stack, service: str, found: list[str]) -> None:
    """Take what is in a dead-letter queue. An event of a message batch is dead-lettered alone, under its own id."""
    while (message := await chorus.broker.take(f"{service}.{DEAD}")) is not None:
        found.append(message.message_id or "")


async def test_orders_settle_while_malformed_messages_arrive_on_every_queue(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="1000.00")
    flooding = asyncio.create_task(flood(chorus))
    for _ in range(ORDERS):  # each is accepted: nothing is refused because of the flood
        await ada.order("10.00")
    sent = await flooding
    await chorus.is_quiet()
    for service in SERVICES:
        found: list[str] = []

        async def all_there(service: str = service, found: list[str] = found) -> None:
            await dead(chorus, service, found)
            missing = sent[service] - {*found}
            assert not missing, f"{service}: {len(missing)} of {len(sent[service])} are missing"

        await eventually(all_there)
