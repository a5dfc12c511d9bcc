"""Rendering: texts by kind, reason and locale, and HTML in which names and messages are never markup."""

import itertools
import re
from html.parser import HTMLParser
from typing import NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from apps.notifications import rendering
from apps.notifications.models import ADDRESSES
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


class Text(NamedTuple):
    subject: str
    body: str


def a_text(
    kind: NotificationKind = "joy",
    reason: str | None = None,
    locale: Locale = "en",
    channel: str = "email",
    *,
    name: str = "Ada",
    amount: int = 3000,
    balance: int = 7000,
) -> Text:
    values = {"order_id": ORDER, "amount": amount, "balance": balance, "currency": "EUR"}
    kind_and_reason = f"{kind}-{reason}" if reason else kind
    template = f"{channel}/{locale}/{kind_and_reason}"
    return Text(*rendering.text(template, name, values | {"locale": locale}))


class Seen(HTMLParser):
    """The visible text of an HTML document, and its elements."""

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
def test_every_text_contains_the_order_the_amount_and_the_balance(
    case: tuple[NotificationKind, str | None], locale: Locale
) -> None:
    text = a_text(*case, locale, name="Ada Lovelace")
    amount, balance = ("30.00 EUR", "70.00 EUR") if locale == "en" else ("30,00 EUR", "70,00 EUR")
    assert text.subject.endswith(amount)
    assert "\n" not in text.subject
    for fact in ("Ada Lovelace", str(ORDER), amount, balance):
        assert fact in text.body
    html = Seen(rendering.html(case[0], locale, text.subject, text.body)).text
    for fact in ("Ada Lovelace", str(ORDER), amount, balance, text.subject):
        assert fact in html


@pytest.mark.parametrize("channel", ADDRESSES)
def test_every_kind_reason_and_locale_has_its_own_text(channel: str) -> None:
    texts = [a_text(*case, locale, channel) for case, locale in EVERY]
    assert len({text.subject for text in texts}) == len(texts)
    assert len({text.body for text in texts}) == len(texts)


@pytest.mark.parametrize("case", CASES)
def test_texts_in_russian_are_in_russian(case: tuple[NotificationKind, str | None]) -> None:
    text = a_text(*case, "ru", name="Софья")
    words = re.findall(r"[A-Za-z]{2,}", text.subject + text.body.replace(str(ORDER), ""))
    assert set(words) == {"EUR", "Chorus"}
    assert '<html lang="ru">' in rendering.html(case[0], "ru", text.subject, text.body)


def test_a_reason_without_a_template_is_an_error() -> None:
    with pytest.raises(KeyError):
        a_text("sorrow", "bad_weather")


def test_an_undefined_variable_in_a_template_is_an_error() -> None:
    template = rendering._TEMPLATES.from_string("Hello {{ nmae }}")
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
def test_amounts_are_formatted_by_locale(minor: int, english: str, russian: str) -> None:
    assert rendering.money(minor, "EUR", "en") == english
    assert rendering.money(minor, "EUR", "ru") == russian


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\x85", "\u2028", "\u2029", "\x0b", "\0"])
def test_line_breaks_in_a_name_become_spaces(break_: str) -> None:
    plain, broken = a_text(name="Ada Bcc: eve@example.org"), f"Ada{break_}Bcc: eve@example.org"
    assert a_text(name=broken) == plain


@given(st.text(max_size=200))
def test_no_name_adds_a_line_or_changes_the_subject(name: str) -> None:
    plain, named = a_text(name="Ada"), a_text(name=name)
    assert named.subject == plain.subject
    assert len(named.body.splitlines()) == len(plain.body.splitlines())


MARKUP = '<script>alert(1)</script><img src=x onerror="x"> & \' </p></body>'


@pytest.mark.parametrize("locale", LOCALES)
def test_markup_in_a_name_is_escaped(locale: Locale) -> None:
    innocent = a_text(locale=locale, name="Ada")
    evil = a_text(locale=locale, name=MARKUP)
    seen = Seen(rendering.html("joy", locale, evil.subject, evil.body))
    assert seen.tags == Seen(rendering.html("joy", locale, innocent.subject, innocent.body)).tags
    assert MARKUP in " ".join(seen.words)


@given(subject=st.text(min_size=1, max_size=200), body=st.text(min_size=1, max_size=500))
def test_markup_in_a_message_is_escaped(subject: str, body: str) -> None:
    seen = Seen(rendering.html("message", "en", subject, body))
    expected = {"html", "head", "meta", "title", "body", "div", "h1", "p", "br"}
    assert set(seen.tags) <= expected


def test_a_message_keeps_its_lines_and_gets_no_table() -> None:
    html = rendering.html("message", "en", "Hello", "To: you\nFrom: us\n\nSecond\r\nparagraph")
    assert "<table" not in html
    assert "To: you<br>From: us</p>" in html
    assert "Second<br>paragraph</p>" in html


def test_the_values_about_an_order_are_shown_as_a_table() -> None:
    text = a_text(name="Ada: Smith")
    seen = Seen(rendering.html("joy", "en", text.subject, text.body))
    assert seen.tags.count("table") == 1
    assert seen.tags.count("tr") == 3
