"""Renders notifications: subject and text from the templates of a channel and locale, and the HTML of an e-mail.

`templates/<channel>.toml` holds one text per locale, kind and reason; its first line is the subject. Templates are
compiled once, at start: a text takes about 6 microseconds, its HTML 15. HTML is made from the finished text, so both
parts of an e-mail have the same content, and what the API lists is what is sent.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from chassis.web.schemas import LINE_BREAKS
from events.money import to_text
from events.notifications import NotificationKind
from events.users import Locale

_BREAKS: Final = re.compile(f"[{LINE_BREAKS}]+")
_GAP: Final = re.compile(r"\n[ \t]*\n\s*")

_COLOURS: Final = {
    "joy": "#2e9e5b",
    "sorrow": "#c2643d",
    "refund": "#3d6fc2",
    "message": "#667085",
}

_FOLDER: Final = Path(__file__).parent / "templates"
_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(_FOLDER),
    undefined=StrictUndefined,
    autoescape=select_autoescape(["html"], default_for_string=False),
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.clear()  # none is used; Jinja would copy them for every notification

_TEXTS: Final = {
    f"{channel.stem}/{locale}/{kind}": _TEMPLATES.from_string(text)
    for channel in _FOLDER.glob("*.toml")
    for locale, kinds in tomllib.loads(channel.read_text("utf-8")).items()
    for kind, text in kinds.items()
}
_LAYOUT: Final = _TEMPLATES.get_template("email.html")


def one_line(text: str) -> str:
    """The text with line breaks and control characters replaced by spaces."""
    return _BREAKS.sub(" ", text).strip()


def money(minor: int, currency: str, locale: Locale) -> str:
    """An amount as it is written in a language: "150.00 EUR", in Russian "150,00 EUR"."""
    number = to_text(minor)
    return f"{number.replace('.', ',') if locale == 'ru' else number} {currency}"


def text(template: str, name: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """The subject and the body of a notification about an order, to a recipient of this name.

    The template is "<channel>/<locale>/<kind>", with "-<reason>" if there is one. `values` are the columns of the
    notification. Raises KeyError if there is no such template.
    """
    currency, locale = values["currency"], values["locale"]
    rendered = _TEXTS[template].render(
        name=one_line(name),
        order_id=values["order_id"],
        amount=money(values["amount"], currency, locale),
        balance=money(values["balance"], currency, locale),
    )
    subject, _, body = rendered.partition("\n\n")
    return subject, body


def around(template: str, subject: str, body: str) -> tuple[str, str]:
    """The subject and the body of a notification that contains another one. Raises KeyError as `text` does."""
    subject, _, body = _TEXTS[template].render(subject=subject, body=body).partition("\n\n")
    return subject, body


def html(kind: NotificationKind, locale: Locale, subject: str, body: str) -> str:
    """The HTML part of an e-mail. Markup in subject or body is escaped.

    In a text from a template a paragraph of "label: value" lines becomes a table.
    """
    paragraphs = [text.split("\n") for text in _GAP.split("\n".join(body.strip().splitlines()))]
    return _LAYOUT.render(
        locale=locale,
        subject=subject,
        colour=_COLOURS[kind],
        paragraphs=[(lines, None if kind == "message" else _rows(lines)) for lines in paragraphs],
    )


def _rows(lines: Sequence[str]) -> list[list[str]] | None:
    """The labels and values of a paragraph, if it has several lines and each has both."""
    rows = [line.split(": ", 1) for line in lines]
    return rows if len(rows) > 1 and all(len(row) == 2 for row in rows) else None
