"""The form of an event on the broker: alone as a plain message, in a pack as a CloudEvents JSON batch.

Alone: AMQP properties and CloudEvents 1.0 headers in binary mode, the body is the event's JSON and nothing else.
In a pack: content type `application/cloudevents-batch+json`, one structured CloudEvent each, with its own
correlation and causation as extension attributes; a header `batch_size`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import groupby
from typing import Annotated, Any, Final, Generic, Literal, Protocol, TypeVar
from uuid import UUID

from aio_pika import DeliveryMode, Message
from aio_pika.abc import HeadersType
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from uuid_utils.compat import uuid7

from chassis.messaging.outbox import JSON, Row
from events.base import Causation, Envelope, Event

MESSAGE_BATCH_LIMIT: Final = 64
"""The most events that one message carries."""

BATCH: Final = "application/cloudevents-batch+json"


def message_batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Group rows by exchange and routing key, in order, into packs of at most PACK_LIMIT."""
    # The sort is stable: ids stay in order.
    by_key = sorted(rows, key=lambda row: (row.exchange, row.routing_key))
    for _, same_key in groupby(by_key, key=lambda row: (row.exchange, row.routing_key)):
        waiting = list(same_key)
        for start in range(0, len(waiting), MESSAGE_BATCH_LIMIT):
            yield waiting[start : start + MESSAGE_BATCH_LIMIT]


def to_message(batch: Sequence[Row]) -> Message:
    """One AMQP message for a pack: a plain one where the event is alone."""
    return _alone(batch[0]) if len(batch) == 1 else _batch(batch)


def _alone(row: Row) -> Message:
    attributes = row.attributes
    return Message(
        row.data.encode(),
        headers=_headers(attributes),
        content_type=JSON,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=attributes["id"],
        correlation_id=attributes["correlationid"],
        timestamp=row.occurred_at,
        type=attributes["type"],
        app_id=row.exchange,
    )


def _headers(cloudevent: Mapping[str, Any]) -> HeadersType:
    """The headers of an event that travels alone: CloudEvents' binary mode, and what caused it."""
    attributes = ("specversion", "id", "type", "source", "subject", "time", "dataschema")
    headers = {f"cloudEvents_{name}": cloudevent[name] for name in attributes if name in cloudevent}
    extensions = {"causation_id": "causationid", "traceparent": "traceparent"}
    headers |= {name: cloudevent[key] for name, key in extensions.items() if cloudevent.get(key)}
    return {name: printable(value) for name, value in headers.items()}


def _batch(batch: Sequence[Row]) -> Message:
    return Message(
        b"[" + ",".join([row.cloudevent for row in batch]).encode() + b"]",
        headers={"batch_size": len(batch)},
        content_type=BATCH,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=str(uuid7()),
        timestamp=batch[0].occurred_at,
        type=batch[0].attributes["type"],
        app_id=batch[0].exchange,
    )


class Incoming(Protocol):
    """What is read of a delivered message: that of aio-pika and that of FastStream's raw message agree."""

    body: bytes
    headers: Any
    content_type: str | None
    content_encoding: str | None
    correlation_id: str | None
    message_id: str | None
    type: str | None
    app_id: str | None
    timestamp: datetime | None


@dataclass(frozen=True, slots=True)
class MalformedEvent:
    """Something in a message that is no event of the expected kind, and why."""

    error: Exception


E = TypeVar("E", bound=Event)


class _BatchItem(BaseModel, Generic[E]):
    specversion: Literal["1.0"]
    id: UUID
    type: str
    time: datetime
    correlationid: str
    causationid: UUID | None = None
    traceparent: str | None = None
    data: E

    def received(self) -> Envelope[E]:
        cause = Causation(self.correlationid, self.causationid, self.traceparent)
        return Envelope(self.id, self.data, self.time, cause)


class _Identity(BaseModel):
    specversion: Literal["1.0"] = Field(alias="cloudEvents_specversion")
    id: UUID = Field(alias="cloudEvents_id")
    time: datetime = Field(alias="cloudEvents_time")
    causation_id: UUID | None = None
    traceparent: str | None = None


@cache
def _adapters(kind: type[E]) -> tuple[TypeAdapter[_BatchItem[E]], TypeAdapter[list[_BatchItem[E]]]]:
    item = _BatchItem[kind]  # type: ignore[valid-type]
    return TypeAdapter(item), TypeAdapter(Annotated[list[item], Field(min_length=1)])


def from_message(message: Incoming, kind: type[E]) -> list[Envelope[E] | MalformedEvent]:
    """The events in a message, in order. What cannot be read comes back as Poison; its neighbours do not."""
    try:
        if message.content_type == BATCH:
            return [item.received() for item in _adapters(kind)[1].validate_json(message.body)]
        identity = _Identity.model_validate(message.headers)
        cause = Causation(message.correlation_id or "", identity.causation_id, identity.traceparent)
        event = kind.model_validate_json(message.body)
        return [Envelope(identity.id, event, identity.time, cause)]
    except ValidationError as error:
        if message.content_type == BATCH:
            return _one_by_one(message.body, kind, error)
        return [MalformedEvent(error)]


def _one_by_one(
    body: bytes, kind: type[E], error: ValidationError
) -> list[Envelope[E] | MalformedEvent]:
    found: list[Envelope[E] | MalformedEvent] = []
    for item in _items(body):
        try:
            found.append(_adapters(kind)[0].validate_json(json.dumps(item)).received())
        except ValidationError as item_error:
            found.append(MalformedEvent(item_error))
    return found or [MalformedEvent(error)]


def _items(body: bytes) -> list[Any]:
    try:
        items = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return items if isinstance(items, list) else []


def copied(message: Incoming) -> Message:
    """A message that was delivered, to be published again as it was."""
    return Message(
        message.body,
        headers=dict(message.headers or {}),
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        timestamp=message.timestamp,
        type=message.type,
        app_id=message.app_id,
    )


def alone(message: Incoming, index: int) -> Message:
    """The event at `index` of a message as a plain message of its own, for the parking place.

    It is rebuilt from what arrived, not from what was understood of it, so that nothing is lost on the way. A body
    that is no pack, an item that is no CloudEvent, or no JSON at all, is kept as it is.
    """
    items = _items(message.body) if message.content_type == BATCH else []
    item = items[index] if index < len(items) else None
    if isinstance(item, dict) and "data" in item and _property(item.get("id")):
        return _unpacked(item, message)
    copy = copied(message)
    if items:
        copy.body = json.dumps(item).encode()
    return copy


def _unpacked(item: dict[str, Any], message: Incoming) -> Message:
    return Message(
        json.dumps(item["data"]).encode(),
        headers=_headers(item),
        content_type=JSON,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=_property(item["id"]),
        correlation_id=_property(item.get("correlationid")),
        timestamp=_moment(item.get("time")),
        type=_property(item.get("type")),
        app_id=message.app_id,
    )


def _property(value: object) -> str | None:
    """The value if AMQP can carry it as a property: a text of at most 255 bytes."""
    text = value if isinstance(value, str) else ""
    return text if text and len(printable(text).encode()) <= 255 and text.isprintable() else None


def _moment(value: object) -> datetime | None:
    """The value if AMQP can carry it as a timestamp: an aware moment since 1970."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo and moment.timestamp() >= 0 else None


def printable(value: object) -> str:
    """The value as a text that UTF-8 can write: JSON may hold halves of surrogate pairs, AMQP may not."""
    return str(value).encode("utf-8", "backslashreplace").decode()
