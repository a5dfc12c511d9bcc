"""One contract per consumer: it still reads every published version of an event, alone or in a message batch."""

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from chassis.messaging import message as wire
from chassis.messaging import outbox
from chassis.messaging.outbox import Row
from events.base import Causation, Envelope, Event
from events.contracts import language
from ops.subscriptions import SUBSCRIPTIONS
from tests.contracts.goldens import Golden, goldens, of
from tests.support.builders import with_body

MOMENT = datetime(2026, 11, 22, 13, 5, 12, 345678, tzinfo=UTC)
CAUSE = Causation("a flow / кавычка \"'", UUID(int=7), f"00-{'a' * 32}-{'b' * 16}-01")

CONSUMERS: list[tuple[str, type[Event], Golden]] = [
    (service, kind, golden)
    for service, kinds in SUBSCRIPTIONS.items()
    for kind in kinds
    for golden in of(kind)
]
IDS = [f"{service} consumes {golden}" for service, _, golden in CONSUMERS]


@pytest.mark.parametrize(("service", "kind", "golden"), CONSUMERS, ids=IDS)
def test_a_consumer_reads_it_in_a_plain_message(
    service: str, kind: type[Event], golden: Golden
) -> None:
    row = _row(golden)
    message = wire.to_message([row])

    assert message.body.decode() == golden.body
    assert wire.from_message(message, kind) == [Envelope(row.id, golden.event(), MOMENT, CAUSE)]


@pytest.mark.parametrize(("service", "kind", "golden"), CONSUMERS, ids=IDS)
def test_a_consumer_reads_it_in_a_message_batch(
    service: str, kind: type[Event], golden: Golden
) -> None:
    rows = [_row(golden) for _ in range(3)]

    received = wire.from_message(wire.to_message(rows), kind)

    assert received == [Envelope(row.id, golden.event(), MOMENT, CAUSE) for row in rows]


def test_each_event_has_its_consumers() -> None:
    consumers = {
        event: {service for service, kinds in SUBSCRIPTIONS.items() if event in names(kinds)}
        for event in names(tuple(language().values()))
    }
    four = {"users", "billing", "orders", "notifications"}
    assert consumers == {
        "UserRegistered": four - {"users"},
        "UserUpdated": four - {"users"},
        "SigningKeyPublished": four,
        "AccountOpened": set(),
        "FundsDeposited": set(),
        "FundsWithdrawn": set(),
        "PaymentSucceeded": {"orders", "notifications"},
        "PaymentRejected": {"orders", "notifications"},
        "PaymentRefunded": {"orders", "notifications"},
        "OrderPlaced": {"billing"},
        "OrderPaid": set(),
        "OrderRejected": set(),
        "OrderCancelled": {"billing"},
        "NotificationSent": set(),
        "NotificationFailed": set(),
    }


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_a_message_has_the_names_of_its_event(golden: Golden) -> None:
    message = wire.to_message([_row(golden)])

    assert message.type == golden.kind.__name__
    assert message.app_id == golden.kind.exchange
    assert message.headers["cloudEvents_subject"] == golden.event().subject
    assert message.headers["cloudEvents_dataschema"] == golden.kind.dataschema
    [item, _] = json.loads(wire.to_message([_row(golden)] * 2).body)
    assert item["type"] == message.type
    assert item["subject"] == golden.event().subject
    assert item["data"] == json.loads(golden.body)


def names(kinds: tuple[type[Event], ...]) -> set[str]:
    return {kind.__name__ for kind in kinds}


def _row(golden: Golden) -> Row:
    return with_body(outbox.row(uuid4(), golden.event(), CAUSE, MOMENT), golden.body)
