"""What letters say, in which language, and that nobody's name becomes anything but a name."""

import itertools
import re
from html.parser import HTMLParser
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from apps.notifications import letters
from apps.notifications.letters import Text
from events.notifications import NotificationKind
from events.users import Locale

ORDER = UUID("0193af00-0000-7000-8000-000000000001")

CASES: list[tuple[NotificationKind, str | None]] = [
    ("joy", None),
    ("sorrow", "insufficient_funds"),
    ("sorrow", "order_cancelled"),
    ("refund", None),
]
LOCALES: list[Locale] = ["en", "ru"]
EVERY = list(itertools.product(CASES, LOCALES))


def a_text(
    kind: NotificationKind = "joy",
    reason: str | None = None,
    locale: Locale = "en",
    *,
    name: str = "Ada",
    amount: int = 3000,
    balance: int = 7000,
) -> Text:
    return letters.text(
        kind,
        locale,
        name=name,
        order_id=ORDER,
        amount=amount,
        balance=balance,
        currency="EUR",
        reason=reason,
    )


class Seen(HTMLParser):
    """What a reader of a letter's HTML sees, and the elements that it is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.mark.parametrize(("case", "locale"), EVERY)
def test_every_letter_names_the_order_the_amount_and_the_balance(
    case: tuple[NotificationKind, str | None], locale: Locale
) -> None:
    text = a_text(*case, locale, name="Ada Lovelace")
    amount, balance = ("30.00 EUR", "70.00 EUR") if locale == "en" else ("30,00 EUR", "70,00 EUR")
    assert text.subject.endswith(amount)
    assert "\n" not in text.subject
    for fact in ("Ada Lovelace", str(ORDER), amount, balance):
        assert fact in text.body
    html = Seen(letters.html(case[0], locale, text.subject, text.body)).text
    for fact in ("Ada Lovelace", str(ORDER), amount, balance, text.subject):
        assert fact in html


def test_every_case_has_words_of_its_own_in_each_language() -> None:
    texts = [a_text(*case, locale) for case, locale in EVERY]
    assert len({text.subject for text in texts}) == len(texts)
    assert len({text.body for text in texts}) == len(texts)


@pytest.mark.parametrize("case", CASES)
def test_russian_letters_are_russian(case: tuple[NotificationKind, str | None]) -> None:
    text = a_text(*case, "ru", name="Софья")
    words = re.findall(r"[A-Za-z]{2,}", text.subject + text.body.replace(str(ORDER), ""))
    assert set(words) == {"EUR", "Chorus"}
    assert '<html lang="ru">' in letters.html(case[0], "ru", text.subject, text.body)


def test_a_reason_that_has_no_words_is_an_error_and_no_empty_letter() -> None:
    with pytest.raises(KeyError):
        a_text("sorrow", "bad_weather")


def test_a_name_that_is_missing_in_a_text_is_an_error_and_no_gap() -> None:
    template = letters._TEMPLATES.from_string("Hello {{ nmae }}")
    with pytest.raises(UndefinedError):
        template.render(name="Ada")


@pytest.mark.parametrize(
    ("minor", "english", "russian"),
    [
        (1, "0.01 EUR", "0,01 EUR"),
        (100_000, "1000.00 EUR", "1000,00 EUR"),
        (10**14, "1000000000000.00 EUR", "1000000000000,00 EUR"),
        (0, "0.00 EUR", "0,00 EUR"),
    ],
)
def test_amounts_are_written_as_each_language_writes_them(
    minor: int, english: str, russian: str
) -> None:
    assert letters.money(minor, "EUR", "en") == english
    assert letters.money(minor, "EUR", "ru") == russian


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\x85", "\u2028", "\u2029", "\x0b", "\0"])
def test_a_name_stays_on_its_line(break_: str) -> None:
    plain, broken = a_text(name="Ada Bcc: eve@example.org"), f"Ada{break_}Bcc: eve@example.org"
    assert a_text(name=broken) == plain


@given(st.text(max_size=200))
def test_no_name_adds_a_line_or_changes_the_subject(name: str) -> None:
    plain, named = a_text(name="Ada"), a_text(name=name)
    assert named.subject == plain.subject
    assert len(named.body.splitlines()) == len(plain.body.splitlines())


MARKUP = '<script>alert(1)</script><img src=x onerror="x"> & \' </p></body>'


@pytest.mark.parametrize("locale", LOCALES)
def test_markup_in_a_name_is_shown_and_not_obeyed(locale: Locale) -> None:
    innocent = a_text(locale=locale, name="Ada")
    evil = a_text(locale=locale, name=MARKUP)
    seen = Seen(letters.html("joy", locale, evil.subject, evil.body))
    assert seen.tags == Seen(letters.html("joy", locale, innocent.subject, innocent.body)).tags
    assert MARKUP in " ".join(seen.words)


@given(subject=st.text(min_size=1, max_size=200), body=st.text(min_size=1, max_size=500))
def test_markup_in_a_message_is_shown_and_not_obeyed(subject: str, body: str) -> None:
    seen = Seen(letters.html("message", "en", subject, body))
    expected = {"html", "head", "meta", "title", "body", "div", "h1", "p", "br"}
    assert set(seen.tags) <= expected


def test_a_message_is_no_table_and_keeps_its_lines() -> None:
    html = letters.html("message", "en", "Hello", "To: you\nFrom: us\n\nSecond\r\nparagraph")
    assert "<table" not in html
    assert "To: you<br>From: us</p>" in html
    assert "Second<br>paragraph</p>" in html


def test_what_is_in_a_letter_about_an_order_is_shown_as_a_table() -> None:
    text = a_text(name="Ada: Smith")
    seen = Seen(letters.html("joy", "en", text.subject, text.body))
    assert seen.tags.count("table") == 1
    assert seen.tags.count("tr") == 3
