"""`chorus mailbox`: an SMTP server that delivers nothing, and a web page and API to read what it received.

It replaces MailDev's container where Docker is missing and answers at the same paths as MailDev 2. It keeps the last
1,000 e-mails in memory.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from email.utils import getaddresses
from functools import cached_property, partial
from typing import Annotated, Any

import uvicorn
from aiosmtpd import smtp
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, PlainTextResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

MAX_EMAILS = 1_000
MAX_BYTES = 256 * 1024  # of one e-mail: 256 MB in memory at most

_pages = Environment(
    loader=PackageLoader("tools", "pages"), autoescape=True, undefined=StrictUndefined
)
# The content of an e-mail runs no script, loads nothing and submits no form.
_SANDBOX = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
}


class Email:
    """One received e-mail. It is parsed when it is first read, so that receiving is fast."""

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
    def subject(self) -> str:
        return str(self.message.get("subject", ""))

    @property
    def text(self) -> str:
        return self._body("plain")

    @property
    def html(self) -> str:
        return self._body("html")

    def _body(self, kind: str) -> str:
        part = self.message.get_body((kind,)) or EmailMessage()
        content = bytes(part.get_payload(decode=True) or b"")
        try:
            return content.decode(part.get_content_charset("utf-8"), errors="replace")
        except LookupError:  # an unknown character set
            return content.decode(errors="replace")

    def _addresses(self, header: str) -> list[dict[str, str]]:
        values = [str(value) for value in self.message.get_all(header, [])]
        return [{"address": address, "name": name} for name, address in getaddresses(values)]

    def as_json(self) -> dict[str, Any]:
        """The representation of MailDev 2."""
        return {
            "id": self.id,
            "from": self._addresses("from"),
            "to": self._addresses("to"),
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


class Mailbox(OrderedDict[str, Email]):
    """The received e-mails by id, oldest first. Beyond MAX_EMAILS the oldest is removed."""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: smtp.Envelope) -> str:  # noqa: N802  # aiosmtpd
        email = Email(envelope)
        self[email.id] = email
        while len(self) > MAX_EMAILS:
            self.popitem(last=False)
        return f"250 OK: stored as {email.id}"


def page(mailbox: Mailbox) -> FastAPI:
    """The page and the API over a mailbox."""
    app = FastAPI(title="Chorus mailbox", openapi_url=None)

    def find(email_id: str) -> Email:
        if email_id not in mailbox:
            raise HTTPException(404, "There is no such e-mail (any more).")
        return mailbox[email_id]

    @app.get("/", response_class=HTMLResponse)
    async def show_mailbox() -> str:
        return _pages.get_template("mailbox.html").render(emails=list(reversed(mailbox.values())))

    @app.get("/email/{email_id}", response_class=HTMLResponse)
    async def show_email(email: Annotated[Email, Depends(find)]) -> str:
        return _pages.get_template("email.html").render(email=email)

    @app.get("/email")
    async def list_emails() -> list[dict[str, Any]]:
        return [email.as_json() for email in mailbox.values()]

    @app.get("/email/{email_id}")
    async def view_email(email: Annotated[Email, Depends(find)]) -> dict[str, Any]:
        return email.as_json()

    @app.get("/email/{email_id}/html")
    async def view_html(email: Annotated[Email, Depends(find)]) -> HTMLResponse:
        return HTMLResponse(email.html, headers=_SANDBOX)

    @app.get("/email/{email_id}/source")
    async def view_source(email: Annotated[Email, Depends(find)]) -> PlainTextResponse:
        return PlainTextResponse(email.source.decode(errors="replace"), headers=_SANDBOX)

    @app.delete("/email/all")
    async def delete_all() -> bool:
        mailbox.clear()
        return True

    app.get("/healthz")(lambda: True)
    return app


@asynccontextmanager
async def listening(mailbox: Mailbox, host: str, port: int) -> AsyncIterator[None]:
    """Receive e-mails by SMTP in this block."""
    loop = asyncio.get_running_loop()
    protocol = partial(smtp.SMTP, mailbox, data_size_limit=MAX_BYTES, hostname="chorus", loop=loop)
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
