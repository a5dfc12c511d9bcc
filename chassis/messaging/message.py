"""The form of an event on the broker: alone as a plain message, with others as a CloudEvents JSON batch.

Alone: AMQP properties and CloudEvents 1.0 headers in binary mode; the body is the event's JSON and nothing else.
In a message batch: content type `application/cloudevents-batch+json`, one structured CloudEvent for each event, with
its own correlation and causation as extension attributes; a header `batch_size`.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache
from itertools import groupby
from operator import attrgetter
from typing import Annotated, Any, Final, Generic, Literal, TypeAlias, TypeVar
from uuid import UUID

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractMessage, HeadersType
from pamqp.header import ContentHeader
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from uuid_utils.compat import uuid7

from chassis.messaging.content_headers import PLAIN_BYTES, UNREADABLE, readable
from chassis.messaging.outbox import GROUP, JSON, Row
from events.base import Causation, Envelope, Event

MESSAGE_BATCH_LIMIT: Final = GROUP
"""The most events that one message carries."""

BATCH: Final = "application/cloudevents-batch+json"

MessageBatch: TypeAlias = Sequence[Row]
"""At least one row of the event log, all with the same exchange and routing key; at most MESSAGE_BATCH_LIMIT events."""


def message_batches(rows: Sequence[Row]) -> Iterator[MessageBatch]:
    """Rows by exchange and routing key, in order, with as many in each batch as fit."""
    route = attrgetter("exchange", "routing_key")
    for _, same_route in groupby(sorted(rows, key=route), key=route):  # stable: ids stay in order
        batch: list[Row] = []
        events = 0
        for row in same_route:
            if events + row.events > MESSAGE_BATCH_LIMIT:
                yield batch
                batch, events = [], 0
            batch.append(row)
            events += row.events
        yield batch


def to_message(batch: MessageBatch) -> Message:
    """One AMQP message for a batch: a plain one for a single event."""
    first, attributes, events = batch[0], batch[0].attributes, sum(row.events for row in batch)
    headers: HeadersType
    if events == 1:
        body, content_type, headers = first.data, JSON, _headers(attributes)
        message_id, correlation_id = attributes["id"], attributes["correlationid"]
    else:
        body, content_type = f"[{','.join([row.cloudevents for row in batch])}]", BATCH
        headers, message_id, correlation_id = {"batch_size": events}, str(uuid7()), None
    return Message(
        body.encode(),
        headers=headers,
        content_type=content_type,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=message_id,
        correlation_id=correlation_id,
        timestamp=first.occurred_at,
        type=attributes["type"],
        app_id=first.exchange,
    )


def _headers(cloudevent: Mapping[str, Any]) -> HeadersType:
    """The headers of a plain message: CloudEvents in binary mode, and the causation."""
    attributes = ("specversion", "id", "type", "source", "subject", "time", "dataschema")
    headers = {f"cloudEvents_{name}": cloudevent[name] for name in attributes if name in cloudevent}
    extensions = {"causation_id": "causationid", "traceparent": "traceparent"}
    headers |= {name: cloudevent[key] for name, key in extensions.items() if cloudevent.get(key)}
    return {name: printable(value) for name, value in headers.items()}


E = TypeVar("E", bound=Event)


_strict: Final = ContentHeader.unmarshal


def _unmarshal(header: ContentHeader, data: bytes) -> None:
    """Decode the payload of a content header frame. What cannot be decoded is left out and named, so nothing raises."""
    if len(data) <= PLAIN_BYTES:
        with suppress(Exception):  # UnicodeDecodeError, RecursionError, InvalidOperation and more
            return _strict(header, data)
    header.class_id, header.weight, header.body_size = struct.unpack_from(">HHQ", data)
    header.properties = readable(data)
    return None


ContentHeader.unmarshal = _unmarshal  # type: ignore[method-assign, assignment]


Text = Annotated[str, Field(pattern=r"^([ -~]{0,128}|[^\x00-\x1f\x7f]{0,63})$")]
"""What the events that follow take over: AMQP and PostgreSQL can carry it, however it was received."""


class _BatchItem(BaseModel, Generic[E]):
    specversion: Literal["1.0"]
    id: UUID
    type: str
    time: datetime
    correlationid: Text
    causationid: UUID | None = None
    traceparent: Text | None = None
    data: E

    def envelope(self) -> Envelope[E]:
        cause = Causation(self.correlationid, self.causationid, self.traceparent)
        return Envelope(self.id, self.data, self.time, cause)


class _Identity(BaseModel):
    specversion: Literal["1.0"] = Field(alias="cloudEvents_specversion")
    id: UUID = Field(alias="cloudEvents_id")
    time: datetime = Field(alias="cloudEvents_time")
    correlation_id: Text
    causation_id: UUID | None = None
    traceparent: Text | None = None


@cache
def _list_of(kind: type[E]) -> TypeAdapter[list[_BatchItem[E]]]:
    item = _BatchItem[kind]  # type: ignore[valid-type]
    return TypeAdapter(Annotated[list[item], Field(min_length=1, max_length=MESSAGE_BATCH_LIMIT)])


def from_message(message: AbstractMessage, kind: type[E]) -> list[Envelope[E] | ValidationError]:
    """The events of a message, in order, with an error in the place of each one that cannot be read."""
    if unreadable := message.headers.get(UNREADABLE):
        return [ValidationError.from_exception_data(f"cannot be decoded: {unreadable!s}", [])]
    if message.content_type == BATCH:
        return _from_batch(message.body, kind)
    flow = message.correlation_id or ""
    try:
        identity = _Identity.model_validate({**message.headers, "correlation_id": flow})
        event = kind.model_validate_json(message.body)
    except ValidationError as error:
        return [error]
    cause = Causation(flow, identity.causation_id, identity.traceparent)
    return [Envelope(identity.id, event, identity.time, cause)]


def _from_batch(body: bytes, kind: type[E]) -> list[Envelope[E] | ValidationError]:
    try:
        return [item.envelope() for item in _list_of(kind).validate_json(body)]
    except ValidationError as error:
        whole = error
    found: list[Envelope[E] | ValidationError] = []
    for item in _items(body):
        try:
            found.append(_list_of(kind).validate_json(json.dumps([item]))[0].envelope())
        except ValidationError as error:
            found.append(error)
    return found or [whole]


def _items(body: bytes) -> list[Any]:
    """The items of a batch; none if it has more than there may be: a megabyte can hold half a million bad ones."""
    try:
        items = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return items if isinstance(items, list) and len(items) <= MESSAGE_BATCH_LIMIT else []


def copied(message: AbstractMessage) -> Message:
    """A copy of a delivered message, to be published again."""
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


def alone(message: AbstractMessage, index: int) -> Message:
    """The event at `index` of a delivered message as a plain message of its own, for dead-lettering.

    It is built from the JSON that arrived, not from the parsed event, so that nothing is lost. A body that is not a
    batch, and an item that is not a CloudEvent or not JSON, are kept as they are.
    """
    is_batch = message.content_type == BATCH and UNREADABLE not in message.headers
    items = _items(message.body) if is_batch else []
    item = items[index] if index < len(items) else None
    if isinstance(item, dict) and "data" in item and _property(item.get("id")):
        return Message(
            json.dumps(item["data"]).encode(),
            headers=_headers(item),
            content_type=JSON,
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=_property(item["id"]),
            correlation_id=_property(item.get("correlationid")),
            timestamp=_timestamp(item.get("time")),
            type=_property(item.get("type")),
            app_id=message.app_id,
        )
    copy = copied(message)
    if items:
        copy.body = json.dumps(item).encode()
    return copy


def _property(value: object) -> str | None:
    """The value if AMQP can carry it as a property: a printable string of at most 255 bytes."""
    text = value if isinstance(value, str) else ""
    return text if text and len(printable(text).encode()) <= 255 and text.isprintable() else None


def _timestamp(value: object) -> datetime | None:
    """The value if AMQP can carry it as a timestamp: an aware time since 1970."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo and moment.timestamp() >= 0 else None


def printable(value: object) -> str:
    """The value as a string that UTF-8 can encode: JSON may hold unpaired surrogates, AMQP may not."""
    return str(value).encode("utf-8", "backslashreplace").decode()
