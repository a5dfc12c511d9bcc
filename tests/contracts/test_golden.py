"""Today's code reads every event that was ever published, and writes it again as it was."""

import json
from typing import Any

import pytest

from events.base import Event
from events.contracts import language
from tests.contracts.goldens import Golden, compact, goldens, of


@pytest.mark.parametrize("kind", language().values(), ids=language())
def test_every_event_has_a_golden_body(kind: type[Event]) -> None:
    assert kind.key in {golden.name for golden in of(kind)}


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_a_published_event_is_serialized_to_the_same_bytes(golden: Golden) -> None:
    assert golden.event().model_dump_json(exclude_unset=True) == golden.body


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_a_published_event_serialized_in_full_keeps_every_field(golden: Golden) -> None:
    written = json.loads(golden.event().model_dump_json())
    assert _within(json.loads(golden.body), written)


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_an_unknown_field_is_ignored(golden: Golden) -> None:
    later = compact(_with_a_field_more(json.loads(golden.body)))
    assert golden.kind.model_validate_json(later) == golden.event()


@pytest.mark.parametrize("golden", goldens(), ids=str)
def test_the_subject_is_the_id_of_the_entity(golden: Golden) -> None:
    event = golden.event()
    place: Any = json.loads(event.model_dump_json(by_alias=False))
    for name in golden.kind.subject_path.split("."):
        place = place[name]
    assert event.subject == place


def test_a_golden_body_without_a_required_field_is_malformed() -> None:
    [golden, *_] = of(language()["order-paid.v1"])
    body = json.loads(golden.body)
    del body["order"]["version"]
    with pytest.raises(ValueError, match="version"):
        golden.kind.model_validate_json(compact(body))


def _within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(name in whole and _within(part[name], whole[name]) for name in part)
    return bool(part == whole)


def _with_a_field_more(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _with_a_field_more(part) for name, part in value.items()} | {"later": [1]}
