"""Which names and e-mail addresses users accept: the same address from registration to the mail server."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from apps.notifications.channels.email import plain_address
from apps.users.schemas import Email, GivenEmail, Name, PatchBody, RegisterBody
from chassis.web.schemas import Body

EMAIL = TypeAdapter[str](Email)
GIVEN_EMAIL = TypeAdapter[str](GivenEmail)
NAME = TypeAdapter[str](Name)

NEEDED = {"\u200c", "\u200d"}
"""Format characters that Persian, Indic scripts and emoji need: the joiners."""

LETTERS = {"\u0600", "\u0601", "\u06dd", "\u070f", "\u08e2", "\U000110bd", "\U000110cd"}
"""Format characters that are seen: signs that precede a number, and the like."""

FORMAT = [
    character
    for character in map(chr, range(0x110000))
    if unicodedata.category(character) == "Cf"
    and unicodedata.bidirectional(character) not in {"AN", "L", "AL"}
    and character not in NEEDED | LETTERS
]


def accepts(adapter: TypeAdapter[str], text: str) -> bool:
    try:
        adapter.validate_python(text)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("character", FORMAT, ids=lambda c: f"U+{ord(c):04X}")
def test_a_name_has_no_invisible_or_bidirectional_characters(character: str) -> None:
    for name in (f"Ann{character}", f"A{character}nn", f"{character}Ann"):
        # Beyond the basic plane they are removed.
        assert (
            not accepts(NAME, name)
            if character <= "\uffff"
            else NAME.validate_python(name) == "Ann"
        )
    assert not accepts(NAME, character)


@pytest.mark.parametrize(
    "name", ["\u3164", "\u200d", " \u2800 ", "\u115f\u1160", "\ufe0f", "\u034f", "\uffa0", "\u3000"]
)
def test_a_name_that_shows_nothing_is_blank(name: str) -> None:
    assert not accepts(NAME, name)


@pytest.mark.parametrize(
    "name",
    [
        "Ann", "Ада Лавлейс", "علی‌رضا", "क्‍ष", "김철수", "Zoë", "O’Neil", "שרה", "👩‍🚀 Sally", "❤️",
        "Nguyễn Thị", "Nguye\u0302\u0303n",
    ],
)  # fmt: skip
def test_names_of_all_scripts_are_accepted(name: str) -> None:
    assert NAME.validate_python(name) == name


@given(
    local=st.text("abcXYZ019.!#$%&'*+/=?^_`{|}~-\"()@ é", min_size=1, max_size=70),
    labels=st.lists(st.text("abc019-é_", min_size=1, max_size=66), min_size=1, max_size=6),
)
def test_what_is_registered_can_be_sent_to(local: str, labels: list[str]) -> None:
    address = f"{local}@{'.'.join(labels)}.com"
    if accepts(EMAIL, address):
        stored = EMAIL.validate_python(address)
        assert plain_address(stored) == stored
        assert len(stored.partition("@")[0]) <= 64


@pytest.mark.parametrize(("length", "accepted"), [(64, True), (65, False)])
def test_a_local_part_has_at_most_64_letters(length: int, accepted: bool) -> None:
    address = "a" * length + "@example.com"
    assert accepts(EMAIL, address) == accepted
    # RFC 5321, 4.5.3.1.1. Somebody who was registered with a longer one can still sign in.
    assert GIVEN_EMAIL.validate_python(address) == address


@pytest.mark.parametrize(
    ("kind", "others"),
    [(RegisterBody, {"password": "correct horse", "name": "Ann"}), (PatchBody, {})],
)
def test_each_body_that_stores_an_address_is_strict(
    kind: type[Body], others: dict[str, str]
) -> None:
    kind.model_validate({"email": "a" * 64 + "@example.com"} | others)
    with pytest.raises(ValidationError, match="valid e-mail address"):
        kind.model_validate({"email": "a" * 65 + "@example.com"} | others)
