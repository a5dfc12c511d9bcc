"""Malformed events: each is found in its place, and the others are read."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from aio_pika import Message
from pydantic import ValidationError

from chassis.messaging.message import (
    MESSAGE_BATCH_LIMIT,
    alone,
    from_message,
    to_message,
)
from events.orders import OrderPaid
from events.users import UserUpdated
from tests.unit.chassis.messaging.rows import a_row, batch_message, received

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
        return batch_message(json.dumps(items).encode())

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
        message = batch_message(body)
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
