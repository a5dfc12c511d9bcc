"""Two releases side by side: tomorrow's events are read today, and today's will be read tomorrow.

Tomorrow's events are invented: each event with an optional field more, in its body and in every state that it carries,
which is all that a new release may do to it.
"""

import json
from typing import Any

import pytest
from pydantic import BaseModel, create_model
from uuid_utils.compat import uuid7

from chassis.messaging import message as wire
from chassis.messaging import outbox
from events import contracts
from events.base import Envelope, Event
from events.contracts import language
from tests.contracts.goldens import Golden, goldens
from tests.contracts.test_consumers import CAUSE, MOMENT
from tests.support.builders import with_body


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> "type[Tomorrow]":
    """Makes tomorrow's events, which do not stay."""
    monkeypatch.setattr(Event, "by_key", {})
    return Tomorrow


class Tomorrow:
    """Today's events with more in them."""

    @classmethod
    def of(cls, kind: type[Event]) -> type[Event]:
        head = {"exchange": kind.exchange, "key": kind.key, "subject": kind.subject_path}
        return create_model(kind.__name__, __base__=Event, __cls_kwargs__=head, **cls._fields(kind))

    @classmethod
    def _fields(cls, kind: type[BaseModel]) -> dict[str, Any]:
        fields: dict[str, Any] = {
            name: (cls._widened(field.annotation), field)
            for name, field in kind.model_fields.items()
        }
        return fields | {"gift": (bool | None, None)}

    @classmethod
    def _widened(cls, annotation: Any) -> Any:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return create_model(
                annotation.__name__, __base__=annotation.__base__, **cls._fields(annotation)
            )
        return annotation


def given_everywhere(body: Any) -> Any:
    """A body in which tomorrow's field stands wherever it may."""
    if not isinstance(body, dict):
        return body
    return {name: given_everywhere(part) for name, part in body.items()} | {"gift": True}


@pytest.mark.parametrize("kind", language().values(), ids=language())
def test_fields_that_the_next_release_adds_break_no_promise(
    tomorrow: type[Tomorrow], kind: type[Event]
) -> None:
    promise = contracts.read(contracts.PUBLISHED)[kind.key]
    assert contracts.breaches(promise, contracts.contract(tomorrow.of(kind))) == []


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_events_of_the_next_release_are_read(tomorrow: type[Tomorrow], golden: Golden) -> None:
    body = json.dumps(given_everywhere(json.loads(golden.body)))
    read = tomorrow.of(golden.kind).model_validate_json(body)
    assert read.model_dump()["gift"] is True
    rows = [with_body(outbox.row(uuid7(), golden.event(), CAUSE, MOMENT), body)]
    for count in (1, 3):
        received = wire.from_message(wire.to_message(rows * count), golden.kind)
        assert [h.event for h in received if isinstance(h, Envelope)] == [golden.event()] * count


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_the_next_release_reads_events_of_today(tomorrow: type[Tomorrow], golden: Golden) -> None:
    body = golden.event().model_dump_json()
    read = tomorrow.of(golden.kind).model_validate_json(body)
    assert read.model_dump()["gift"] is None
    assert golden.kind.model_validate_json(read.model_dump_json()) == golden.event()
