"""Malformed messages that billing cannot process, and an unusual one that it can."""

import json
import random
from typing import Final
from uuid import UUID

import aio_pika
from uuid_utils.compat import uuid7

from chassis.messaging import message as wire
from chassis.messaging.topology import queue_name
from events.base import Envelope, Event
from events.orders import OrderPlaced
from tests.stories.journal import outbox_row_of

QUEUE: Final = queue_name("billing", OrderPlaced)
"""The queue to which the message is sent directly, so that no other service receives it."""


def malformed_message(
    variety: str, known: Envelope[Event], dice: random.Random
) -> tuple[aio_pika.Message, UUID | None]:
    """Return a message, and the id under which it must be dead-lettered; None if it must have no effect at all.

    `known` is an event that billing has processed before: the valid part of the message is a duplicate.
    """
    id = uuid7()
    row = outbox_row_of(known, id=id)
    message = wire.to_message([row])
    body = json.loads(message.body)
    match variety:
        case "truncated":
            message.body = message.body[: dice.randrange(1, len(message.body))]
        case "a megabyte":
            message.body = b"[" * 1_048_576
        case "another type":
            body["order"]["total"] = "much"
            message.body = json.dumps(body).encode()
        case "unknown version":
            # In a message batch, next to a valid event.
            message = wire.to_message([row, outbox_row_of(known)])
            items = json.loads(message.body)
            items[0]["specversion"] = "9.0"
            message.body = json.dumps(items).encode()
        case "unknown fields":
            message = wire.to_message([outbox_row_of(known)])
            message.body = json.dumps(body | {"colour": "of the future"}).encode()
            return message, None
        case _:
            raise ValueError(variety)
    return message, id
