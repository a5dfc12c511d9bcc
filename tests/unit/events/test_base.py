"""Every event is immutable, named in the past tense, and has a subject."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import ValidationError

from events.base import Causation, Envelope, Event, rfc3339
from events.contracts import language
from events.orders import OrderPlaced
from tests.support.builders import an_order

EVENTS = sorted(language().values(), key=lambda kind: kind.key)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 22, 13, 5, 12, tzinfo=UTC), "2026-11-22T13:05:12.000000Z"),
        (datetime(2026, 11, 22, 13, 5, 12, 345678, tzinfo=UTC), "2026-11-22T13:05:12.345678Z"),
    ],
)
def test_a_time_is_formatted_as_rfc_3339(moment: datetime, text: str) -> None:
    assert rfc3339(moment) == text


class TestEvent:
    """Every event."""

    @pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
    def test_an_event_is_named_in_the_past_tense_and_its_key_is_its_name(
        self, kind: type[Event]
    ) -> None:
        words = "".join(part.capitalize() for part in kind.queue_key().split("-"))
        assert kind.__name__ == words
        assert kind.key == f"{kind.queue_key()}.v{kind.version}"
        assert words.endswith(("ed", "Sent", "Withdrawn", "Paid"))
        assert kind.__module__ == f"events.{kind.exchange}"
        assert kind.__doc__ != Event.__doc__

    def test_an_event_has_a_subject_a_dataschema_and_a_version(self) -> None:
        order = an_order()
        assert OrderPlaced(order=order).subject == str(order.id)
        assert OrderPlaced.dataschema == "urn:chorus:orders:order-placed:v1"
        assert OrderPlaced.version == 1

    def test_an_event_is_immutable(self) -> None:
        event = OrderPlaced(order=an_order())
        with pytest.raises(ValidationError):
            event.order = an_order()  # type: ignore[misc]
        with pytest.raises(ValidationError):
            event.order.version = 2  # type: ignore[misc]

    def test_the_causation_of_an_event_keeps_its_flow_and_has_its_id(self) -> None:
        cause = Causation("flow", UUID(int=1), "00-trace")
        received = Envelope(UUID(int=2), OrderPlaced(order=an_order()), datetime.now(UTC), cause)
        assert received.causation() == Causation("flow", UUID(int=2), "00-trace")

    def test_a_naive_time_is_refused(self) -> None:
        order = an_order().model_dump() | {"placedAt": datetime(2026, 11, 22)}  # noqa: DTZ001
        with pytest.raises(ValidationError, match="timezone"):
            type(an_order()).model_validate(order)
