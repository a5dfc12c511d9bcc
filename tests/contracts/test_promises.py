"""The contract check: what breaks a promise is refused and explained, what breaks nothing passes once it is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import Field, create_model

from events import contracts
from events.base import Event, Moment, State
from events.contracts import Contract
from events.money import Money

REMOVED = object()
PLACE: dict[str, Any] = {"city": (str, ...), "street": (str | None, None)}
FIELDS: dict[str, Any] = {
    "id": (UUID, ...),
    "price": (Money, ...),
    "status": (Literal["packed", "sent"], ...),
    "weight": (int, Field(ge=1)),
    "sender": (str, Field(max_length=200)),
    "note": (str | None, None),
    "sent_at": (Moment, ...),
    "tags": (list[str], []),
    "place": (create_model("Place", __base__=State, **PLACE), ...),
    "stops": (list[create_model("Place", __base__=State, **PLACE)], []),  # type: ignore[misc]
}
HEAD = {"exchange": "parcels", "key": "parcel-sent.v1", "subject": "parcel.id"}

ParcelSent = Callable[..., Contract]


@pytest.fixture
def parcel_sent(monkeypatch: pytest.MonkeyPatch) -> ParcelSent:
    """Makes the contract of an invented event; the caller may change fields of its parcel or its head."""
    monkeypatch.setattr(Event, "by_key", {})

    def make(
        fields: dict[str, Any] | None = None, name: str = "ParcelSent", **head: str
    ) -> Contract:
        Event.by_key.clear()
        wanted = {k: v for k, v in (FIELDS | (fields or {})).items() if v is not REMOVED}
        state = create_model("ParcelState", __base__=State, **wanted)
        kind = create_model(name, __base__=Event, __cls_kwargs__=HEAD | head, parcel=(state, ...))
        return contracts.contract(kind)

    return make


def place(**changes: Any) -> type[State]:
    fields = {k: v for k, v in (PLACE | changes).items() if v is not REMOVED}
    return create_model("Place", __base__=State, **fields)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"note": REMOVED}, "parcel.note: was removed"),
        ({"weight": REMOVED, "mass": (int, 1)}, "parcel.weight: was removed"),
        (
            {"colour": (str, ...)},
            "parcel.colour: is new and required; a new field must be optional",
        ),
        ({"weight": (str, ...)}, 'parcel.weight: its type was "integer", is now "string"'),
        (
            {"weight": (float, Field(ge=1))},
            'parcel.weight: its type was "integer", is now "number"',
        ),
        ({"weight": (int, Field(ge=0))}, "parcel.weight: its minimum was 1, is now 0"),
        ({"weight": (int, ...)}, "parcel.weight: its minimum was 1, is now nothing"),
        (
            {"weight": (int | None, ...)},
            "parcel.weight: its type was integer, is now integer or null",
        ),
        ({"note": (str, "")}, "parcel.note: its type was string or null, is now string"),
        ({"note": (int | None, None)}, 'parcel.note: its type was "string", is now "integer"'),
        ({"note": (str | None, ...)}, "parcel.note: was optional, is now required"),
        ({"note": (str | None, "-")}, 'parcel.note: its default was nothing, is now "-"'),
        ({"weight": (int, Field(1, ge=1))}, "parcel.weight: was required, is now optional"),
        (
            {"sender": (str, Field(max_length=100))},
            "parcel.sender: its maxLength was 200, is now 100",
        ),
        ({"id": (str, ...)}, 'parcel.id: its format was "uuid", is now nothing'),
        ({"sent_at": (str, ...)}, 'parcel.sentAt: its format was "date-time", is now nothing'),
        ({"price": (str, ...)}, "parcel.price: its pattern was"),
        ({"status": (Literal["packed"], ...)}, 'parcel.status: the value "sent" was removed'),
        (
            {"status": (Literal["packed", "sent", "lost"], ...)},
            'parcel.status: the value "lost" was added, which readers of today refuse',
        ),
        ({"status": (str, ...)}, 'parcel.status: the value "packed" was removed'),
        ({"tags": (list[int], [])}, 'parcel.tags[]: its type was "string", is now "integer"'),
        ({"tags": (list, [])}, 'parcel.tags[]: its type was "string", is now nothing'),
        ({"place": (place(city=REMOVED), ...)}, "parcel.place.city: was removed"),
        ({"place": (place(zip=(str, ...)), ...)}, "parcel.place.zip: is new and required"),
        ({"place": (str, ...)}, 'parcel.place: its type was "object", is now "string"'),
        ({"stops": (list[place(city=(int, ...))], [])}, "parcel.stops[].city: its type was"),  # type: ignore[misc]
    ],
)
def test_a_change_that_breaks_readers_is_refused(
    parcel_sent: ParcelSent, change: dict[str, Any], expected: str
) -> None:
    broken = contracts.breaches(parcel_sent(), parcel_sent(change))
    assert any(expected in line for line in broken), broken


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({"name": "ParcelLeft"}, 'event: was "ParcelSent", is now "ParcelLeft"'),
        ({"exchange": "post"}, 'exchange: was "parcels", is now "post"'),
        ({"subject": "parcel.place.city"}, 'subject: was "parcel.id", is now "parcel.place.city"'),
    ],
)
def test_a_change_of_exchange_or_key_is_refused(
    parcel_sent: ParcelSent, head: dict[str, str], expected: str
) -> None:
    assert expected in contracts.breaches(parcel_sent(), parcel_sent(**head))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"colour": (str | None, None)},
        {"colour": (Literal["red", "blue"], "red")},
        {"place": (place(zip=(str | None, None)), ...)},
        {"stops": (list[place(zip=(str | None, None))], [])},  # type: ignore[misc]
        {"weight": (int, Field(ge=1, description="Grams.", examples=[500], title="Weight"))},
    ],
    ids=["nothing", "optional", "default", "nested", "in a list", "prose"],
)
def test_a_compatible_change_is_accepted(parcel_sent: ParcelSent, change: dict[str, Any]) -> None:
    assert contracts.breaches(parcel_sent(), parcel_sent(change)) == []


@pytest.mark.parametrize("name", ["title", "description", "examples", "properties"])
def test_a_field_may_be_called_like_a_keyword(parcel_sent: ParcelSent, name: str) -> None:
    promise = parcel_sent({name: (str, ...)})
    assert contracts.breaches(promise, promise) == []
    assert contracts.breaches(promise, parcel_sent()) == [f"parcel.{name}: was removed"]


def test_a_removed_event_is_refused(parcel_sent: ParcelSent) -> None:
    [line] = contracts.broken({"parcel-sent.v1": parcel_sent()}, {})
    assert line.startswith("parcel-sent.v1 (ParcelSent): was removed")


def test_a_version_cannot_replace_another(parcel_sent: ParcelSent) -> None:
    second = {"parcel-sent.v2": parcel_sent(key="parcel-sent.v2")}
    [line] = contracts.broken({"parcel-sent.v1": parcel_sent()}, second)
    assert line.startswith("parcel-sent.v1 (ParcelSent): was removed")


def test_a_new_event_breaks_nothing_but_must_be_written(parcel_sent: ParcelSent) -> None:
    today = {"parcel-sent.v1": parcel_sent()}
    assert contracts.broken({}, today) == []
    assert contracts.unwritten({}, today) == ["parcel-sent.v1 (ParcelSent): is new"]
    assert contracts.unwritten(today, today) == []


def test_a_new_field_must_be_written(parcel_sent: ParcelSent) -> None:
    published = {"parcel-sent.v1": parcel_sent()}
    today = {"parcel-sent.v1": parcel_sent({"colour": (str | None, None)})}
    assert contracts.unwritten(published, today) == ["parcel-sent.v1 (ParcelSent): has changed"]


def test_two_events_cannot_share_a_key(parcel_sent: ParcelSent) -> None:
    parcel_sent()
    with pytest.raises(TypeError, match=r"parcel-sent\.v1 is already the key of ParcelSent"):
        create_model("ParcelLost", __base__=Event, __cls_kwargs__=HEAD, parcel=(State, ...))


class TestTheCommand:
    """`python -m events.contracts`, with promises in a folder of its own."""

    def test_check_accepts_the_published_events(self) -> None:
        assert contracts.main(["check"]) == 0

    def test_check_accepts_what_write_wrote(self, tmp_path: Path) -> None:
        assert contracts.main(["write"], tmp_path) == 0
        assert contracts.main(["check"], tmp_path) == 0
        assert contracts.read(tmp_path) == contracts.read(contracts.PUBLISHED)

    def test_check_names_unpublished_events(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert contracts.main(["check"], tmp_path) == 1
        output = capsys.readouterr().err
        assert "publish with `make events`" in output
        assert "order-placed.v1 (OrderPlaced): is new" in output

    @pytest.mark.parametrize("what", ["check", "write"])
    def test_write_refuses_an_incompatible_change(
        self, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        contracts.main(["write"], tmp_path)
        file = tmp_path / "order-placed.v1.json"
        promise = json.loads(file.read_text())
        promise["schema"]["$defs"]["OrderState"]["properties"]["gift"] = {"type": "boolean"}
        before = json.dumps(promise)
        file.write_text(before)

        assert contracts.main([what], tmp_path) == 1
        assert file.read_text() == before
        output = capsys.readouterr().err
        assert "Published events have changed." in output
        assert "order-placed.v1 (OrderPlaced): order.gift: was removed" in output

    def test_an_unknown_argument_prints_the_usage(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert contracts.main(["chekc"]) == 1
        assert "usage" in capsys.readouterr().err
