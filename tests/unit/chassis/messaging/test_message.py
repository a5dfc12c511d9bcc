"""The form of events on the broker: they are read as they were written, and a malformed one affects no other."""

import json
import math
from collections import Counter
from uuid import UUID

import pytest
from aio_pika import DeliveryMode
from hypothesis import given
from hypothesis import strategies as st

from chassis.messaging.message import (
    MESSAGE_BATCH_LIMIT,
    from_message,
    message_batches,
    to_message,
)
from events.base import Causation
from events.orders import OrderPlaced
from events.users import UserUpdated
from tests.support.builders import an_order, outbox_row
from tests.unit.chassis.messaging.rows import TRACE, a_row, causes, received


class TestPlainMessage:
    """A single event is a plain message with all its attributes in properties and headers."""

    def test_it_has_every_property(self) -> None:
        order = an_order()
        row = outbox_row(OrderPlaced(order=order), causation_id=UUID(int=7), traceparent=TRACE)
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
