"""Dead letters: one event of a message as a plain message of its own."""

import json
from typing import Any
from uuid import UUID

import pytest
from aio_pika import DeliveryMode, Message
from hypothesis import given
from hypothesis import strategies as st

from chassis.messaging.message import (
    BATCH,
    alone,
    from_message,
    to_message,
)
from events.base import Causation
from events.users import UserUpdated
from tests.unit.chassis.messaging.rows import NOW, a_row, batch_message, causes, received


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

        dead_letter = alone(batch_message(json.dumps(items).encode()), 1)

        assert json.loads(dead_letter.body) == items[1]["data"]
        assert dead_letter.message_id == str(UUID(int=2))

    @pytest.mark.parametrize("item", [None, 7, "text", [], {}, {"data": 1}], ids=repr)
    def test_an_item_that_is_no_event_is_kept_as_json(self, item: Any) -> None:
        items = [item, *json.loads(to_message([a_row(1), a_row(2)]).body)]
        message = batch_message(json.dumps(items).encode())
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
    item = json.loads(a_row().cloudevents) | {"time": time}
    batch = Message(json.dumps([item, item]).encode(), content_type=BATCH)
    dead_letter = alone(batch, 0)
    assert dead_letter.timestamp is None
    assert dead_letter.properties.marshal()
    assert dead_letter.message_id == item["id"]


def test_a_dead_lettered_event_keeps_its_time() -> None:
    batch = to_message([a_row(1), a_row(2)])
    assert alone(batch, 1).timestamp == NOW
