"""The messages of the AsyncAPI document: what an event looks like on the broker, alone and in a batch.

Bodies are described by the events' own schemas, properties and headers as `chassis/messaging/message.py` writes
them. Examples are what the bus itself would send.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from aio_pika import Message

from chassis.messaging import message as wire
from chassis.messaging import outbox
from chassis.web.examples import TIME, Examples, Schema, example_id
from events.base import SPECVERSION, Causation, Event

Document = dict[str, Any]

BINDING: Final = {"bindingVersion": "0.3.0"}
"""The version of AsyncAPI's AMQP bindings that all documents are written in."""

FLOW: Final = str(example_id("flow"))
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

_TOLD: Final = ("customer", "orderId", "sentAt", "to", "subject", "body")
"""Optional fields that the examples fill in."""

_STORY: Final[dict[str, Document]] = {
    "FundsWithdrawn": {"transaction": {"kind": "withdrawal"}},
    "NotificationFailed": {
        "notification": {"status": "failed", "sentAt": None},
        "reason": "550 5.1.1 there is no such mailbox",
    },
    "NotificationSent": {"notification": {"status": "sent"}},
    "OrderCancelled": {"order": {"status": "cancelled", "version": 2}},
    "OrderPaid": {"order": {"status": "paid", "version": 2}},
    "OrderRejected": {
        "order": {"status": "rejected", "reason": "insufficient_funds", "version": 2}
    },
    "PaymentRefunded": {"order": {"status": "cancelled", "version": 3}},
}
"""What an example must say so that it makes sense; the rest follows from the schema."""


CORRELATION_IDS: Final = {
    "alone": {
        "description": "The flow that the event belongs to: AMQP's property `correlation_id`.",
        "location": "$message.header#/correlation_id",
    },
    "batch": {
        "description": "Each event of a batch has its own.",
        "location": "$message.payload#/0/correlationid",
    },
}


def messages(
    kinds: Sequence[type[Event]], schemas: Mapping[str, Schema]
) -> Iterator[tuple[str, Document]]:
    """Both forms of each event, by name."""
    for kind in kinds:
        rows = [_row(kind, schemas, number) for number in (1, 2)]
        yield kind.__name__, _alone(kind, wire.to_message(rows[:1]))
        yield f"{kind.__name__}Batch", _batch(kind, wire.to_message(rows))


def _alone(kind: type[Event], example: Message) -> Document:
    name = kind.__name__
    return {
        "name": name,
        "title": name,
        **told_by(kind),
        "contentType": outbox.JSON,
        "headers": _headers(kind),
        "correlationId": {"$ref": "#/components/correlationIds/alone"},
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": {"amqp": {"messageType": name, **BINDING}},
        "x-amqp-properties": _properties(
            kind,
            outbox.JSON,
            message_id=_ID | {"description": "The event's id, a UUIDv7."},
            correlation_id={"type": "string", "description": "The flow that it belongs to."},
        ),
        "examples": [_example("alone", example)],
    }


def _batch(kind: type[Event], example: Message) -> Document:
    name = kind.__name__
    return {
        "name": f"{name}Batch",
        "title": f"{name}, several at once",
        "summary": f"2 to {wire.MESSAGE_BATCH_LIMIT} events that waited for the same routing key, in CloudEvents' JSON "
        "batch format. An event that comes alone is never held back to make a batch.",
        "contentType": wire.BATCH,
        "headers": _object(
            {"batch_size": {"type": "integer", "minimum": 2, "maximum": wire.MESSAGE_BATCH_LIMIT}}
        ),
        "correlationId": {"$ref": "#/components/correlationIds/batch"},
        "payload": {
            "type": "array",
            "minItems": 2,
            "maxItems": wire.MESSAGE_BATCH_LIMIT,
            "items": {"$ref": f"#/components/schemas/{name}InBatch"},
        },
        "bindings": {"amqp": {"messageType": name, **BINDING}},
        "x-amqp-properties": _properties(
            kind, wire.BATCH, message_id=_ID | {"description": "The batch's own id, a UUIDv7."}
        ),
        "examples": [_example("batch", example)],
    }


def told_by(kind: type[Event]) -> Document:
    """What an event says about itself."""
    summary, _, rest = (inspect.getdoc(kind) or "").partition("\n\n")
    return {"summary": summary} | ({"description": rest} if rest else {})


def structured(kind: type[Event]) -> Document:
    """The schema of an event in a batch: CloudEvents' structured form."""
    attributes = {
        name.removeprefix("cloudEvents_"): part for name, part in _attributes(kind).items()
    }
    extensions = {
        "datacontenttype": {"const": outbox.JSON},
        "correlationid": {"type": "string", "description": "The flow that it belongs to."},
        "data": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }
    optional = {"causationid": _CAUSATION, "traceparent": _TRACE}
    return {"title": f"{kind.__name__} in a batch", **_object(attributes | extensions, optional)}


def dead_letter() -> Document:
    """A message that could not be handled, as `chassis/messaging/dead_letters.py` sets it aside."""
    reason = {
        "dead_letter_queue": "The queue that it was heard from.",
        "dead_letter_exchange": "The exchange that it was published to.",
        "dead_letter_routing_key": "Its routing key there.",
        "dead_letter_error": "Why it could not be handled.",
        "dead_letter_traceback": "Where in the code.",
        "dead_letter_attempts": "How often it was tried.",
        "dead_letter_at": "When it was set aside.",
    }
    text: Document = {"type": "string"}
    headers = {name: text | {"description": said} for name, said in reason.items()}
    headers["dead_letter_attempts"] |= {"type": "integer", "minimum": 1}
    headers["dead_letter_at"] |= {"format": "date-time"}
    return {
        "name": "Parked",
        "title": "Parked",
        "summary": "A message that could not be handled: one event as it came, with the reason in its headers.",
        "headers": _object(headers),
        "payload": {"description": "The event's body, or whatever came instead of one."},
    }


_ID: Final[Document] = {"type": "string", "format": "uuid"}
_CAUSATION: Final[Document] = _ID | {
    "description": "The id of the event that caused this one; missing where a person did."
}
_TRACE: Final[Document] = {"type": "string", "description": "W3C Trace Context."}


def _object(required: Document, optional: Document | None = None) -> Document:
    fields = required | (optional or {})
    return {"type": "object", "required": list(required), "properties": fields}


def _attributes(kind: type[Event]) -> Document:
    """The attributes of CloudEvents 1.0 in binary mode."""
    return {
        "cloudEvents_specversion": {"const": SPECVERSION},
        "cloudEvents_id": _ID | {"description": "The event's id, a UUIDv7."},
        "cloudEvents_type": {"const": kind.__name__},
        "cloudEvents_source": {"const": outbox.source(kind.exchange)},
        "cloudEvents_subject": {
            "type": "string",
            "description": "What the event is about: its id.",
        },
        "cloudEvents_time": {"type": "string", "format": "date-time"},
        "cloudEvents_dataschema": {"const": kind.dataschema()},
    }


def _headers(kind: type[Event]) -> Document:
    return _object(_attributes(kind), {"causation_id": _CAUSATION, "traceparent": _TRACE})


def _properties(kind: type[Event], content_type: str, **own: Document) -> Document:
    common = {
        "type": {"const": kind.__name__},
        "app_id": {"const": kind.exchange},
        "timestamp": {"type": "integer", "description": "Seconds since 1970."},
        "content_type": {"const": content_type},
        "delivery_mode": {"const": 2, "description": "Persistent."},
    }
    return _object(own | common)


def _row(kind: type[Event], schemas: Mapping[str, Schema], number: int) -> outbox.Row:
    body = Examples(schemas, _TOLD).of(schemas[kind.__name__])
    for field, part in _STORY.get(kind.__name__, {}).items():
        body[field] = {**body[field], **part} if isinstance(part, dict) else part
    event = kind.model_validate_json(json.dumps(body))
    cause = Causation(FLOW, example_id("cause"), TRACEPARENT)
    id = example_id(f"{kind.__name__} {number}")
    return outbox.row(id, event, cause, datetime.fromisoformat(TIME))


def _example(name: str, message: Message) -> Document:
    return {"name": name, "headers": dict(message.headers), "payload": json.loads(message.body)}
