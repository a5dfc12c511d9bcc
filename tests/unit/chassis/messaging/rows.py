"""Outbox rows, the envelopes that are read from their messages, and message batches of any content."""

from datetime import UTC, datetime
from uuid import UUID

from aio_pika import Message
from hypothesis import strategies as st

from chassis.messaging import outbox
from chassis.messaging.message import BATCH
from chassis.messaging.outbox import Row
from events.base import Causation, Envelope
from events.users import UserUpdated
from tests.support.builders import a_user

NOW = datetime(2026, 11, 22, 13, 5, 12, 345678, tzinfo=UTC)


TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


causes = st.builds(
    Causation,
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=63)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=128),
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


def batch_message(body: bytes) -> Message:
    return Message(
        body, content_type=BATCH, headers={"batch_size": 3}, type="UserUpdated", app_id="users"
    )
