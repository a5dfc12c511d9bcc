"""The AsyncAPI page of a service, made from its document."""

import json
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tools.documents.schemas import Document, inlined

_SECTIONS = {"Publishes": "publish", "Receives": "receive", "Dead letters": "deadLetter"}
"""Headings of the page, and how the ids of the operations below each begin."""


def page(document: Document) -> str:
    """The page as HTML. It loads only files that the service serves beside it."""
    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    templates.filters["prose"] = _prose
    operations = inlined(document["operations"], document)
    sections = {
        title: {id: each for id, each in operations.items() if id.startswith(prefix)}
        for title, prefix in _SECTIONS.items()
    }
    html = templates.get_template("asyncapi.html").render(document, sections=sections)
    return re.sub(r"\n\s*\n", "\n", html) + "\n"


def _prose(text: str) -> Markup:
    """Text with `code` in it, as docstrings and descriptions have it."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped
