"""The messages of the AsyncAPI document: an event on the broker, alone and in a message batch.

The relay's own code makes the examples from golden bodies. Properties and headers are described as they stand there.
"""

import inspect
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from aio_pika import Message

from chassis.messaging import message as wire
from chassis.messaging import outbox
from events.base import Causation, Event
from tools.documents.schemas import TRACEPARENT, Document, example_id

GOLDEN: Final = Path(__file__).parents[2] / "tests" / "contracts" / "golden"

BINDING: Final = {"bindingVersion": "0.3.0"}
"""The version of AsyncAPI's AMQP bindings that all documents are written in."""

_CAUSATION: Final = Causation(example_id("flow"), UUID(example_id("cause")), TRACEPARENT)
_TIME: Final = datetime(2026, 11, 22, 13, 5, 12, tzinfo=UTC)


def _string(description: str, **more: object) -> Document:
    return {"type": "string", "description": description, **more}


_ATTRIBUTES: Final = {
    "id": _string("The event's id, a UUIDv7.", format="uuid"),
    "time": _string("When it was published.", format="date-time"),
    "subject": _string("The id of what the event is about."),
    "correlationid": _string("The flow that it belongs to."),
    "causationid": _string(
        "The id of the event that caused this one; absent where an HTTP request did.", format="uuid"
    ),
    "traceparent": _string("W3C Trace Context."),
}
"""CloudEvents attributes and extensions that differ from event to event."""

_OPTIONAL: Final = {"causationid", "causation_id", "traceparent"}


def _object(fields: Document) -> Document:
    required = [name for name in fields if name not in _OPTIONAL]
    return {"type": "object", "required": required, "properties": fields}


_ATTEMPTS: Final = {"type": "integer", "minimum": 1, "description": "How often it was tried."}
_REASON: Final = {
    "dead_letter_queue": _string("The queue that it was received from."),
    "dead_letter_exchange": _string("The exchange that it was published to."),
    "dead_letter_routing_key": _string("Its routing key there."),
    "dead_letter_error": _string("Why it could not be handled."),
    "dead_letter_traceback": _string("Where in the code."),
    "dead_letter_attempts": _ATTEMPTS,
    "dead_letter_at": _string("When it was dead-lettered.", format="date-time"),
}
DEAD_LETTER: Final[Document] = {
    "name": "DeadLetter",
    "title": "Dead letter",
    "summary": "A message that could not be handled: one event as it was received, with the reason in its headers.",
    "headers": _object(_REASON),
    "payload": {"description": "The event's body, or the malformed one that was received."},
}
"""A message as `chassis/messaging/dead_letters.py` publishes it."""


def forms(kind: type[Event]) -> tuple[Document, Document]:
    """The two messages of an event: alone, and a batch.

    Raises FileNotFoundError for an event without a golden body.
    """
    name, most = kind.__name__, wire.MESSAGE_BATCH_LIMIT
    event = kind.model_validate_json((GOLDEN / f"{kind.key}.json").read_bytes())
    ids = [UUID(example_id(f"{name} {number}")) for number in (1, 2)]
    rows = [outbox.row(id, event, _CAUSATION, _TIME) for id in ids]
    alone, batch = wire.to_message(rows[:1]), wire.to_message(rows)
    attributes: Document = {
        attribute: _ATTRIBUTES.get(attribute, {"const": value})
        for attribute, value in rows[0].attributes.items()
    }
    names = {header: header.removeprefix("cloudEvents_") for header in alone.headers}
    names["causation_id"] = "causationid"
    headers = {header: attributes[name] for header, name in names.items()}
    body = {"$ref": f"#/components/schemas/{name}"}
    return {
        "name": name,
        "title": name,
        **described_by(kind),
        **_as_published(alone, "$message.header#/correlation_id"),
        "headers": _object(headers),
        "payload": body,
    }, {
        "name": f"{name}Batch",
        "title": f"{name}, message batch",
        "summary": f"2 to {most} events that waited for the same routing key, in CloudEvents' JSON batch format. "
        "An event that is alone is never held back to make a batch.",
        **_as_published(batch, "$message.payload#/0/correlationid"),
        "headers": _object({"batch_size": {"type": "integer", "minimum": 2, "maximum": most}}),
        "payload": {
            "type": "array",
            "minItems": 2,
            "maxItems": most,
            "items": _object(attributes | {"data": body}),
        },
    }


def described_by(declared: object) -> Document:
    """Summary and description, from a docstring."""
    summary, _, rest = (inspect.getdoc(declared) or "").partition("\n\n")
    return {"summary": summary} | ({"description": rest} if rest else {})


def _as_published(message: Message, correlation_id: str) -> Document:
    """What follows from the message itself: content type, bindings, AMQP properties and the example."""
    properties = {
        "message_id": _string("A UUIDv7, the event's or the batch's own.", format="uuid"),
        **({"correlation_id": _ATTRIBUTES["correlationid"]} if message.correlation_id else {}),
        "type": {"const": message.type},
        "app_id": {"const": message.app_id},
        "timestamp": {"type": "integer", "description": "Seconds since 1970."},
        "content_type": {"const": message.content_type},
        "delivery_mode": {"const": int(message.delivery_mode), "description": "Persistent."},
    }
    example = {"headers": dict(message.headers), "payload": json.loads(message.body)}
    return {
        "contentType": message.content_type,
        "correlationId": {"description": "The flow of the event.", "location": correlation_id},
        "bindings": {"amqp": {"messageType": message.type, **BINDING}},
        "x-amqp-properties": _object(properties),
        "examples": [example],
    }
