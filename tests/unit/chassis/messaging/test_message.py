"""The form of events on the broker: they are read as they were written, and a malformed one affects no other."""

import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from aio_pika import DeliveryMode, Message
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chassis.messaging import outbox
from chassis.messaging.message import (
    BATCH,
    MESSAGE_BATCH_LIMIT,
    alone,
    from_message,
    message_batches,
    to_message,
)
from chassis.messaging.outbox import Row
from events.base import Causation, Envelope
from events.orders import OrderPaid, OrderPlaced
from events.users import UserUpdated
from tests.support.builders import a_user, an_order, told

NOW = datetime(2026, 11, 22, 13, 5, 12, 345678, tzinfo=UTC)
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"

causes = st.builds(
    Causation,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=128),
    st.none() | st.uuids(),
    st.none() | st.just(TRACE),
)


def a_row(number: int = 1, cause: Causation | None = None) -> Row:
    event = UserUpdated(user=a_user(name=f'"{number}" \\ Žofie\n'))
    return outbox.row(UUID(int=number), event, cause or Causation("flow"), NOW)


def received(row: Row) -> Envelope[UserUpdated]:
    attributes = row.attributes
    causation_id = UUID(attributes["causationid"]) if "causationid" in attributes else None
    cause = Causation(attributes["correlationid"], causation_id, attributes.get("traceparent"))
    return Envelope(row.id, UserUpdated.model_validate_json(row.data), row.occurred_at, cause)


class TestPlainMessage:
    """A single event is a plain message with all its attributes in properties and headers."""

    def test_it_has_every_property(self) -> None:
        order = an_order()
        row = told(OrderPlaced(order=order), causation_id=UUID(int=7), traceparent=TRACE)
        message = to_message([row])

        assert message.body.decode() == row.data
        assert message.message_id == str(row.id)
        assert message.type == "OrderPlaced"
        assert message.app_id == "orders"
        assert message.correlation_id == row.attributes["correlationid"]
        assert message.content_type == "application/json"
        assert message.delivery_mode == DeliveryMode.PERSISTENT
        assert message.timestamp == row.occurred_at
        assert message.headers == {
            "cloudEvents_specversion": "1.0",
            "cloudEvents_id": str(row.id),
            "cloudEvents_type": "OrderPlaced",
            "cloudEvents_source": "/chorus/orders",
            "cloudEvents_subject": str(order.id),
            "cloudEvents_time": row.occurred_at.isoformat(timespec="microseconds")[:-6] + "Z",
            "cloudEvents_dataschema": "urn:chorus:orders:order-placed:v1",
            "causation_id": str(UUID(int=7)),
            "traceparent": TRACE,
        }

    def test_an_event_without_a_cause_has_no_causation_headers(self) -> None:
        headers = to_message([a_row()]).headers
        assert "causation_id" not in headers
        assert "traceparent" not in headers

    @given(causes)
    def test_it_is_read_as_it_was_written(self, cause: Causation) -> None:
        row = a_row(cause=cause)
        assert from_message(to_message([row]), UserUpdated) == [received(row)]


class TestMessageBatch:
    """Several events are one message in the CloudEvents batch format."""

    def test_its_properties_describe_its_contents(self) -> None:
        message = to_message([a_row(n) for n in (1, 2, 3)])

        assert message.content_type == "application/cloudevents-batch+json"
        assert message.headers == {"batch_size": 3}
        assert (message.type, message.app_id) == ("UserUpdated", "users")
        assert message.delivery_mode == DeliveryMode.PERSISTENT
        assert message.message_id not in {None, *(str(UUID(int=n)) for n in (1, 2, 3))}

    def test_each_item_is_a_complete_cloudevent(self) -> None:
        row = a_row(1, Causation("flow", UUID(int=7), TRACE))
        first, second = json.loads(to_message([row, a_row(2)]).body)

        assert first == {
            "specversion": "1.0",
            "id": str(row.id),
            "source": "/chorus/users",
            "type": "UserUpdated",
            "subject": row.attributes["subject"],
            "time": "2026-11-22T13:05:12.345678Z",
            "dataschema": "urn:chorus:users:user-updated:v1",
            "datacontenttype": "application/json",
            "correlationid": "flow",
            "causationid": str(UUID(int=7)),
            "traceparent": TRACE,
            "data": json.loads(row.data),
        }
        assert first.keys() - second.keys() == {"causationid", "traceparent"}

    @given(st.lists(causes, min_size=2, max_size=MESSAGE_BATCH_LIMIT))
    def test_all_events_are_read_in_order(self, cause: list[Causation]) -> None:
        rows = [a_row(number, cause) for number, cause in enumerate(cause, 1)]
        message = to_message(rows)
        assert from_message(message, UserUpdated) == [received(row) for row in rows]

    @pytest.mark.parametrize("size", range(1, MESSAGE_BATCH_LIMIT + 1))
    def test_a_batch_of_any_size_is_read_completely(self, size: int) -> None:
        rows = [a_row(number) for number in range(1, size + 1)]
        [batch] = message_batches(rows)
        assert from_message(to_message(batch), UserUpdated) == [received(row) for row in rows]


routes = st.tuples(st.sampled_from(["orders", "users"]), st.sampled_from(["a.v1", "a.v2", "b.v1"]))


@given(st.lists(routes, max_size=3 * MESSAGE_BATCH_LIMIT))
def test_rows_are_grouped_by_routing_key_in_order(routing: list[tuple[str, str]]) -> None:
    row = a_row()
    rows = [
        row._replace(id=UUID(int=number), exchange=exchange, routing_key=key)
        for number, (exchange, key) in enumerate(routing)
    ]
    batches = list(message_batches(rows))

    assert sorted(row for batch in batches for row in batch) == rows
    for batch in batches:
        assert 1 <= len(batch) <= MESSAGE_BATCH_LIMIT
        assert len({(row.exchange, row.routing_key) for row in batch}) == 1
    for route, count in Counter(routing).items():
        of_route = [batch for batch in batches if batch[0][1:3] == route]
        assert len(of_route) == math.ceil(count / MESSAGE_BATCH_LIMIT)
        ids = [row.id for batch in of_route for row in batch]
        assert ids == sorted(ids)


def test_a_batch_holds_at_most_64_events() -> None:
    sizes = [len(batch) for batch in message_batches([a_row(number) for number in range(130)])]
    assert sizes == [64, 64, 2]


ROWS = [a_row(number) for number in range(1, MESSAGE_BATCH_LIMIT + 1)]
ITEMS = json.loads(to_message(ROWS).body)

Damage = Callable[[dict[str, Any]], Any]

DAMAGES: dict[str, Damage] = {
    "a field missing": lambda item: item["data"]["user"].pop("version"),
    "a wrong type": lambda item: item["data"]["user"].update(version="many"),
    "an unknown value": lambda item: item["data"]["user"].update(locale="tlh"),
    "another event's body": lambda item: item.update(data={"order": {}}),
    "a text as body": lambda item: item.update(data="user"),
    "no body": lambda item: item.pop("data"),
    "no id": lambda item: item.pop("id"),
    "an id that is no UUID": lambda item: item.update(id="17"),
    "no correlation": lambda item: item.pop("correlationid"),
    "no time": lambda item: item.pop("time"),
    "another specversion": lambda item: item.update(specversion="2.0"),
}


class TestMalformedEvent:
    """What cannot be read is an error in its place; the other events are read."""

    def batch(self, position: int, item: Any) -> Message:
        items = [*ITEMS[:position], item, *ITEMS[position + 1 :]]
        return _message(json.dumps(items).encode())

    @pytest.mark.parametrize("position", range(MESSAGE_BATCH_LIMIT))
    def test_it_is_found_at_every_position(self, position: int) -> None:
        broken = json.loads(json.dumps(ITEMS[position]))
        broken["data"]["user"].pop("version")

        found = from_message(self.batch(position, broken), UserUpdated)

        assert isinstance(found.pop(position), ValidationError)
        assert found == [received(row) for row in ROWS if row.id != UUID(int=position + 1)]

    @pytest.mark.parametrize("what", DAMAGES)
    def test_any_part_of_an_event_may_be_malformed(self, what: str) -> None:
        broken = json.loads(json.dumps(ITEMS[30]))
        DAMAGES[what](broken)

        found = from_message(self.batch(30, broken), UserUpdated)

        assert [index for index, one in enumerate(found) if isinstance(one, ValidationError)] == [
            30
        ]

    @pytest.mark.parametrize("item", [None, 7, "text", [], {}, [[]], True], ids=repr)
    def test_an_item_may_be_any_json(self, item: Any) -> None:
        found = from_message(self.batch(0, item), UserUpdated)
        assert [isinstance(one, ValidationError) for one in found[:2]] == [True, False]

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"null", b'[{"id": 1', b"7", b"[" * 100_000, b"\x00" * 9],
        ids=lambda body: repr(body[:9]),
    )  # fmt: skip
    def test_a_body_that_is_no_batch_is_one_malformed_event(self, body: bytes) -> None:
        message = _message(body)
        [found] = from_message(message, UserUpdated)
        assert isinstance(found, ValidationError)
        assert alone(message, 0).body == body

    @pytest.mark.parametrize("content_type", ["application/json", None, "text/plain", ""])
    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"{}", b"null"], ids=repr)
    def test_a_body_that_is_no_event_is_one_malformed_event(
        self, body: bytes, content_type: str | None
    ) -> None:
        message = to_message([a_row()])
        message.body, message.content_type = body, content_type
        [found] = from_message(message, UserUpdated)
        assert isinstance(found, ValidationError)

    @pytest.mark.parametrize(
        "name", ["cloudEvents_specversion", "cloudEvents_id", "cloudEvents_time"]
    )
    def test_a_plain_message_without_identity_is_malformed(self, name: str) -> None:
        message = to_message([a_row()])
        del message.headers[name]
        [found] = from_message(message, UserUpdated)
        assert isinstance(found, ValidationError)
        assert name in str(found)

    def test_a_plain_message_of_another_specversion_is_malformed(self) -> None:
        message = to_message([a_row()])
        message.headers["cloudEvents_specversion"] = "2.0"
        [found] = from_message(message, UserUpdated)
        assert isinstance(found, ValidationError)

    def test_another_type_of_event_is_malformed(self) -> None:
        [found] = from_message(to_message([a_row()]), OrderPaid)
        assert isinstance(found, ValidationError)

    def test_unknown_attributes_and_fields_are_ignored(self) -> None:
        later = json.loads(json.dumps(ITEMS[0]))
        later |= {"sequence": "1"}
        later["data"] |= {"later": {}}
        later["data"]["user"] |= {"nickname": None}
        found = from_message(self.batch(0, later), UserUpdated)
        assert found == [received(row) for row in ROWS]


class TestDeadLetter:
    """One event of a message as a plain message of its own, which can be replayed."""

    @given(st.lists(causes, min_size=1, max_size=5), st.data())
    def test_it_is_read_as_it_was_in_the_batch(
        self, cause: list[Causation], data: st.DataObject
    ) -> None:
        cause = [
            Causation(_as_a_property(c.correlation_id), c.causation_id, c.traceparent)
            for c in cause
        ]
        rows = [a_row(number, cause) for number, cause in enumerate(cause, 1)]
        index = data.draw(st.integers(0, len(rows) - 1))

        dead_letter = alone(to_message(rows), index)

        assert from_message(dead_letter, UserUpdated) == [received(rows[index])]
        assert json.loads(dead_letter.body) == json.loads(rows[index].data)
        assert dead_letter.message_id == str(rows[index].id)
        assert (dead_letter.type, dead_letter.app_id) == ("UserUpdated", "users")
        assert dead_letter.content_type == "application/json"
        assert dead_letter.delivery_mode == DeliveryMode.PERSISTENT
        assert dead_letter.headers == to_message([rows[index]]).headers

    def test_a_malformed_body_is_kept_unchanged(self) -> None:
        items = json.loads(to_message([a_row(1), a_row(2)]).body)
        items[1]["data"] = {"user": {"id": "ünknown"}, "more": [1.5, None]}

        dead_letter = alone(_message(json.dumps(items).encode()), 1)

        assert json.loads(dead_letter.body) == items[1]["data"]
        assert dead_letter.message_id == str(UUID(int=2))

    @pytest.mark.parametrize("item", [None, 7, "text", [], {}, {"data": 1}], ids=repr)
    def test_an_item_that_is_no_event_is_kept_as_json(self, item: Any) -> None:
        items = [item, *json.loads(to_message([a_row(1), a_row(2)]).body)]
        message = _message(json.dumps(items).encode())
        dead_letter = alone(message, 0)
        assert json.loads(dead_letter.body) == item
        assert dead_letter.headers == message.headers

    def test_a_plain_message_is_kept_completely(self) -> None:
        message = to_message([a_row()])
        message.body = b"\xffno json"
        message.content_encoding = "gzip"
        dead_letter = alone(message, 0)
        assert dead_letter.body == message.body
        assert dead_letter.headers == message.headers
        assert dead_letter.content_encoding == "gzip"
        assert dead_letter.message_id == message.message_id
        assert dead_letter.correlation_id == message.correlation_id
        assert (dead_letter.type, dead_letter.app_id) == (message.type, message.app_id)


def _as_a_property(text: str) -> str:
    """A correlation id that AMQP can carry; the HTTP API accepts no others."""
    return "".join(c for c in text if c.isprintable())[:60] or "flow"


def _message(body: bytes) -> Message:
    return Message(
        body, content_type=BATCH, headers={"batch_size": 3}, type="UserUpdated", app_id="users"
    )


@pytest.mark.parametrize(
    "time",
    [
        "1969-12-31T23:00:00Z",
        "1970-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00Z",
        "2026-11-22T13:05:12",
        "soon",
        None,
        7,
    ],
)
def test_an_event_with_a_time_that_amqp_cannot_carry_is_dead_lettered(time: object) -> None:
    item = json.loads(a_row().cloudevent) | {"time": time}
    batch = Message(json.dumps([item, item]).encode(), content_type=BATCH)
    dead_letter = alone(batch, 0)
    assert dead_letter.timestamp is None
    assert dead_letter.properties.marshal()
    assert dead_letter.message_id == item["id"]


def test_a_dead_lettered_event_keeps_its_time() -> None:
    batch = to_message([a_row(1), a_row(2)])
    assert alone(batch, 1).timestamp == NOW
