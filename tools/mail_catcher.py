"""`chorus mailbox`: catches mail where MailDev's container is not to be had, behind the same paths as MailDev 2.

It holds the last 1,000 letters in memory and delivers none.
"""

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from email.utils import getaddresses
from functools import cached_property
from typing import Annotated, Any

import uvicorn
from aiosmtpd import smtp
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

MOST_LETTERS = 1_000
MOST_BYTES = 256 * 1024  # of one letter: 256 MB is the worst that can lie here

_pages = Environment(
    loader=PackageLoader("tools", "pages"), autoescape=True, undefined=StrictUndefined
)
# What a letter brings along runs nothing, loads nothing and sends nothing.
_HARMLESS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}


class Letter:
    """A letter as it arrived, and what it says: read only when somebody asks, to take many quickly."""

    def __init__(self, envelope: smtp.Envelope) -> None:
        self.id = secrets.token_hex(4)
        self.arrived = datetime.now(UTC)
        self.source = envelope.original_content or b""
        self.sender = envelope.mail_from
        self.recipients = list(envelope.rcpt_tos)

    @cached_property
    def message(self) -> EmailMessage:
        return BytesParser(_class=EmailMessage, policy=SMTP).parsebytes(self.source)

    @property
    def text(self) -> str:
        return self._body("plain")

    @property
    def html(self) -> str:
        return self._body("html")

    @property
    def subject(self) -> str:
        """The subject, decoded."""
        return str(self.message.get("subject", ""))

    @property
    def to(self) -> str:
        """The recipients as the letter names them."""
        return str(self.message.get("to", "")) or ", ".join(self.recipients)

    def as_json(self) -> dict[str, Any]:
        """In the form that MailDev 2 answers."""
        return {
            "id": self.id,
            "from": _people(self.message.get_all("from", [])),
            "to": _people(self.message.get_all("to", [])),
            "subject": self.subject,
            "text": self.text,
            "html": self.html,
            "headers": {name.lower(): str(value) for name, value in self.message.items()},
            "messageId": str(self.message.get("message-id", "")),
            "date": str(self.message.get("date", "")),
            "time": self.arrived.isoformat(),
            "envelope": {"from": self.sender, "to": self.recipients},
            "size": len(self.source),
        }

    def _body(self, kind: str) -> str:
        part = self.message.get_body((kind,))
        payload = part.get_payload(decode=True) if part is not None else None
        if part is None or not isinstance(payload, bytes):
            return ""
        try:
            return payload.decode(part.get_content_charset("utf-8"), errors="replace")
        except LookupError:  # an encoding that nobody knows
            return payload.decode(errors="replace")


def _people(headers: list[Any]) -> list[dict[str, str]]:
    return [
        {"address": address, "name": name}
        for name, address in getaddresses([str(header) for header in headers])
    ]


class Mailbox:
    """The letters, oldest first; beyond MOST_LETTERS the oldest goes."""

    def __init__(self) -> None:
        self.letters: OrderedDict[str, Letter] = OrderedDict()

    async def handle_DATA(  # noqa: N802  # aiosmtpd's name for "a letter is complete"
        self, _server: smtp.SMTP, _session: smtp.Session, envelope: smtp.Envelope
    ) -> str:
        letter = Letter(envelope)
        self.letters[letter.id] = letter
        while len(self.letters) > MOST_LETTERS:
            self.letters.popitem(last=False)
        return f"250 OK: caught as {letter.id}"


router = APIRouter()


def _mailbox(request: Request) -> Mailbox:
    mailbox: Mailbox = request.app.state.mailbox
    return mailbox


def _letter(letter_id: str, request: Request) -> Letter:
    letter = _mailbox(request).letters.get(letter_id)
    if letter is None:
        raise HTTPException(404, "There is no such letter (any more).")
    return letter


Letters = Annotated[Mailbox, Depends(_mailbox)]
OneLetter = Annotated[Letter, Depends(_letter)]


@router.get("/")
async def read_list(mailbox: Letters) -> HTMLResponse:
    newest_first = list(reversed(mailbox.letters.values()))
    return HTMLResponse(_pages.get_template("mailbox.html").render(letters=newest_first))


@router.get("/letter/{letter_id}")
async def read_letter(letter: OneLetter) -> HTMLResponse:
    return HTMLResponse(_pages.get_template("letter.html").render(letter=letter))


@router.get("/email")
async def list_letters(mailbox: Letters) -> list[dict[str, Any]]:
    return [letter.as_json() for letter in mailbox.letters.values()]


@router.get("/email/{letter_id}")
async def view_letter(letter: OneLetter) -> dict[str, Any]:
    return letter.as_json()


@router.get("/email/{letter_id}/html")
async def view_html(letter: OneLetter) -> HTMLResponse:
    return HTMLResponse(letter.html, headers=_HARMLESS)


@router.get("/email/{letter_id}/source")
async def view_source(letter: OneLetter) -> PlainTextResponse:
    return PlainTextResponse(letter.source.decode(errors="replace"), headers=_HARMLESS)


@router.delete("/email/all")
async def delete_all(mailbox: Letters) -> bool:
    mailbox.letters.clear()
    return True


@router.get("/healthz")
async def healthz() -> bool:
    return True


def page(mailbox: Mailbox) -> FastAPI:
    """The page and the API over a mailbox."""
    app = FastAPI(title="Chorus mailbox", openapi_url=None)
    app.state.mailbox = mailbox
    app.include_router(router)
    return app


@contextlib.asynccontextmanager
async def listening(mailbox: Mailbox, host: str, port: int) -> AsyncIterator[None]:
    """Letters come in by SMTP."""
    loop = asyncio.get_running_loop()

    def protocol() -> smtp.SMTP:
        return smtp.SMTP(mailbox, data_size_limit=MOST_BYTES, hostname="chorus", loop=loop)

    server = await loop.create_server(protocol, host, port)
    try:
        yield
    finally:
        server.close()


async def run(host: str, smtp_port: int, http_port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    mailbox = Mailbox()
    config = uvicorn.Config(
        page(mailbox), host=host, port=http_port, access_log=False, log_level="warning"
    )
    async with listening(mailbox, host, smtp_port):
        await uvicorn.Server(config).serve()
