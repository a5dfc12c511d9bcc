"""Renders a notification: its subject and text by channel, kind, reason and locale, and the HTML of an e-mail.

`templates/<channel>/<locale>/` holds one text per kind and reason; its first line is the subject. Templates are
compiled once, at start: a text takes about 6 microseconds, its HTML 15. HTML is made from the finished text, so both
parts of an e-mail have the same content, and what the API lists is what is sent.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup, escape

from events.money import to_text
from events.notifications import NotificationKind
from events.users import Locale

_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""Control characters, and all that breaks a line."""

_LINE_END: Final = re.compile(r"\r\n?")
_GAP: Final = re.compile(r"\n[ \t]*\n\s*")

_COLOURS: Final = {
    "joy": "#2e9e5b",
    "sorrow": "#c2643d",
    "refund": "#3d6fc2",
    "message": "#667085",
}

_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    autoescape=select_autoescape(["html"]),
    trim_blocks=True,
    lstrip_blocks=True,
)


def _template(name: str) -> Template:
    template = _TEMPLATES.get_template(name)
    template.globals = {}  # none is used; Jinja would copy them for every notification
    return template


_TEXTS: Final = {
    name.removesuffix(".txt"): _template(name)
    for name in _TEMPLATES.list_templates(extensions=["txt"])
}
_LAYOUT: Final = _template("email/layout.html")

# The elements inside the layout.
_PARAGRAPH: Final = '<p style="margin:0 0 16px">%s</p>'
_TABLE: Final = '<table role="presentation" cellpadding="0" cellspacing="0" style="margin:0 0 16px">\n%s\n</table>'
_ROW: Final = (
    '<tr><td style="padding:2px 24px 2px 0;color:#667">%s</td>'
    '<td style="padding:2px 0"><b>%s</b></td></tr>'
)


class Text(NamedTuple):
    """A rendered notification."""

    subject: str
    body: str


def one_line(text: str) -> str:
    """The text with line breaks and control characters replaced by spaces."""
    return _BREAKS.sub(" ", text).strip()


def money(minor: int, currency: str, locale: Locale) -> str:
    """An amount as it is written in a language: "150.00 EUR", in Russian "150,00 EUR"."""
    number = to_text(minor)
    return f"{number.replace('.', ',') if locale == 'ru' else number} {currency}"


def text(
    kind: NotificationKind,
    locale: Locale,
    *,
    channel: str,
    name: str,
    order_id: UUID,
    amount: int,
    balance: int,
    currency: str,
    reason: str | None = None,
) -> Text:
    """Render a notification about an order. `reason` is billing's, if it rejected the payment.

    Raises KeyError if there is no such template.
    """
    template = _TEXTS[
        f"{channel}/{locale}/{kind}-{reason}" if reason else f"{channel}/{locale}/{kind}"
    ]
    rendered = template.render(
        name=one_line(name),
        order_id=order_id,
        amount=money(amount, currency, locale),
        balance=money(balance, currency, locale),
    )
    subject, _, body = rendered.partition("\n\n")
    return Text(subject, body)


def html(kind: NotificationKind, locale: Locale, subject: str, body: str) -> str:
    """The HTML part of an e-mail. Markup in subject or body is escaped."""
    return _LAYOUT.render(
        locale=locale,
        subject=subject,
        colour=_COLOURS[kind],
        content=_content(body, from_template=kind != "message"),
    )


def _content(body: str, *, from_template: bool) -> Markup:
    """The paragraphs. In a text from a template a paragraph of "label: value" lines becomes a table."""
    # Everything is escaped here, before any markup is put around it.
    escaped = str(escape(_LINE_END.sub("\n", body).strip("\n")))
    blocks = (block.split("\n") for block in _GAP.split(escaped))
    html = "\n".join((from_template and _table(lines)) or _paragraph(lines) for lines in blocks)
    return Markup(html)  # noqa: S704 - escaped above


def _paragraph(lines: list[str]) -> str:
    return _PARAGRAPH % "<br>".join(lines)


def _table(lines: list[str]) -> str | None:
    pairs = [tuple(line.split(": ", 1)) for line in lines]
    if len(pairs) == 1 or any(len(pair) == 1 for pair in pairs):
        return None
    return _TABLE % "\n".join(_ROW % pair for pair in pairs)
