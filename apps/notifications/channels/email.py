"""The e-mail channel: a notification becomes a MIME message, which an SMTP server accepts, defers or refuses.

aiosmtplib speaks SMTP (RFC 5321). Here it is decided what a reply or a lost connection means for a notification, and
when to connect again. A connection carries many e-mails, one at a time.

The standard library's message classes take ten times as long as its encoders, so only those are used. The same content
gives the same bytes, in short lines of ASCII: no text can end a header or a part.
"""

import asyncio
import contextlib
import email.policy
import re
import ssl
from binascii import b2a_qp
from collections.abc import Callable
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from email.utils import format_datetime
from functools import partial
from typing import Final, Self, cast

from aiosmtplib import SMTP, SMTPException, SMTPResponseException
from prometheus_client import Histogram

from apps.notifications import rendering
from apps.notifications.channels import Channel, ServerAwayError
from apps.notifications.channels.mail_server import MailServer, MailSettings
from apps.notifications.channels.replies import result_of
from apps.notifications.models import DeliveryResult, Notification

CONNECT_SECONDS: Final = 15.0
"""Time to connect, encrypt and sign in."""

SEND_SECONDS: Final = 120.0
"""How long a server may take over one e-mail. A shorter time means second copies from servers that are only slow."""

REPLY_SECONDS: Final = 5.0
"""How long it may take over RSET and QUIT."""

SECONDS = Histogram(
    "chorus_smtp_seconds",
    "Time to hand one e-mail to the mail server.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120),
)

_MESSAGE: Final = """\
{sender}
To: {to}
Subject: {subject}
Date: {date}
Message-ID: <{id}@{domain}>
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: multipart/alternative;
 boundary="=_{id.hex}"

--=_{id.hex}
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: quoted-printable

{text}
--=_{id.hex}
Content-Type: text/html; charset="utf-8"
Content-Transfer-Encoding: quoted-printable

{html}
--=_{id.hex}--
""".replace("\n", "\r\n")

_PLAIN: Final = re.compile(r"(?!.*=\?)[!-~](?:[ -~]{0,58}[!-~])?")
"""A subject that needs no encoding: printable ASCII that fits in a line, and does not look encoded."""

_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")


class UnsendableError(ValueError):
    """An e-mail that no mail server would accept."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of all e-mails."""

    header: str
    """The From header."""
    address: str
    domain: str

    @classmethod
    def of(cls, mail_from: str) -> Self:
        """Read a setting such as "Chorus <orders@example.com>". Raises LookupError if it is no address."""
        message = EmailMessage(policy=email.policy.SMTP)
        try:
            message["From"] = mail_from
            (found,) = message["From"].addresses
            plain_address(found.addr_spec)
        except ValueError as error:
            raise LookupError(f"CHORUS_MAIL_FROM is not one e-mail address: {error}") from None
        return cls(message.as_string().rstrip(), found.addr_spec, found.domain)


class EmailChannel(Channel):
    """Sends e-mails over one connection to the mail server, which is opened again after it was lost."""

    def __init__(self, sender: Sender, server: MailServer, smtp: SMTP) -> None:
        self._sender = sender
        self._server = server
        self._smtp = smtp
        self._transport: asyncio.WriteTransport | None = None
        self._failures_before = 0
        """How often in a row the server had failed when the connection was opened."""
        self._used = False
        """Whether the connection has carried e-mails."""
        self._accepted = 0
        """How many of them the server has accepted."""
        self._replied = False
        """Whether the server has replied to the present e-mail."""
        self._loop = asyncio.get_running_loop()

    async def ready(self) -> None:
        """Connect. Attempts of all connections of the process follow one another, with growing pauses."""
        async with self._server.connecting:
            while not self._smtp.is_connected:
                await self._server.pause()
                await self._connect()

    async def _connect(self) -> None:
        """Connect, encrypt and sign in as configured; note it if that fails."""
        self.close()
        self._failures_before, self._used, self._accepted = self._server.failures, False, 0
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._smtp.connect()
                await self._smtp.noop()  # sends EHLO first, if signing in has not
            if not self._smtp.is_connected:
                raise ConnectionResetError("the server closed the connection")
            self._transport = cast("asyncio.WriteTransport", self._smtp.transport)
        except (SMTPException, OSError, ValueError) as error:
            self.close()
            self._server.failed(self._failures_before, error)

    async def send(self, notification: Notification) -> DeliveryResult:
        """Send it, with the same bytes and the same Message-ID each time.

        The server's reply, an address that is not valid, or a connection lost in the middle of the e-mail is a result.
        A deferral counts on a connection that has carried no e-mail before.
        """
        try:
            recipient, message = compose(self._sender, notification)
        except UnsendableError as error:
            return DeliveryResult("refused", f"553 {error}")  # RFC 5321's code, without asking
        if self._accepted >= self._server.most_e_mails:
            await self.release()
        if not self._smtp.is_connected:
            raise ServerAwayError("not connected")
        started = self._loop.time()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                result = await self._transfer(recipient, message)
        except (SMTPException, OSError) as error:
            return self._lost(error)
        SECONDS.observe(self._loop.time() - started)
        if self._server.failures:
            self._server.answered()
        self._used = True
        if result.outcome == "accepted":
            self._accepted += 1
            return result
        if result.outcome == "deferred" and self._accepted:
            await self.release()  # the reply may be about a connection that has carried enough
            raise ServerAwayError(result.answer)
        await self._reset()
        return result

    async def _transfer(self, recipient: str, message: bytes) -> DeliveryResult:
        """The reply that decides about an e-mail: the first negative one, or the positive one to its end.

        Raises SMTPException or OSError if there is none: a reply may concern the connection, or break the protocol.
        """
        self._replied = False
        try:
            await self._smtp.mail(self._sender.address)
            self._replied = True
            await self._smtp.rcpt(recipient)
            return DeliveryResult("accepted", str(await self._smtp.data(message)))
        except SMTPResponseException as error:
            return result_of(error, sender_accepted=self._replied)

    def _lost(self, error: Exception) -> DeliveryResult:
        """Close the connection. The e-mail is deferred if the server has replied to it, else ServerAwayError is raised.

        A server may close a connection between two e-mails: that is no failure, and `ready` connects at once.
        """
        self.close()
        if self._replied or not self._used:
            self._server.failed(self._failures_before, error)
        if not self._replied:
            raise ServerAwayError(repr(error)) from error
        return DeliveryResult("deferred", f"the connection was lost: {error!r}")

    async def _reset(self) -> None:
        """Prepare for the next e-mail after a negative reply, which is final whether or not this succeeds."""
        try:
            await self._smtp.rset(timeout=REPLY_SECONDS)
        except (SMTPException, OSError):
            self.close()

    async def release(self) -> None:
        """End the session with QUIT, and close the connection."""
        with contextlib.suppress(SMTPException, OSError):
            await self._smtp.quit(timeout=REPLY_SECONDS)
        self.close()

    def close(self) -> None:
        if self._transport is not None:
            # Buffered data must not be sent later, after a copy on the next connection.
            self._transport.abort()
            self._transport = None
        self._smtp.close()


def plain_address(address: str) -> str:
    """The address. Raises UnsendableError for anything but one plain ASCII address."""
    if not _ADDRESS.fullmatch(address):
        raise UnsendableError("this is not an address that mail can be sent to")
    return address


def compose(sender: Sender, notification: Notification) -> tuple[str, bytes]:
    """The recipient's address, and the e-mail with CR LF at the ends of lines. Raises UnsendableError."""
    assert notification.locale is not None
    assert notification.subject is not None
    assert notification.body is not None
    kind, locale = notification.kind, notification.locale
    subject, text = notification.subject, notification.body
    to = plain_address(notification.address or "")
    message = _MESSAGE.format(
        sender=sender.header,
        to=to,
        subject=_subject(subject),
        date=format_datetime(notification.created_at),
        id=notification.id,
        domain=sender.domain,
        text=_quoted_printable(text),
        html=_quoted_printable(rendering.html(kind, locale, subject, text)),
    )
    return to, message.encode("ascii")


def _subject(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    return Header(text, "utf-8", header_name="Subject").encode(linesep="\r\n")


def _quoted_printable(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip() + "\n"
    return b2a_qp(lines.replace("\n", "\r\n").encode()).decode()


def email_channels(settings: MailSettings) -> Callable[[], EmailChannel]:
    """Makes channels that share what the process knows of the mail server."""
    sender = Sender.of(settings.mail_from)
    if settings.smtp_ca is not None:
        try:
            ssl.create_default_context(cafile=settings.smtp_ca)
        except OSError as error:
            raise LookupError(f"CHORUS_SMTP_CA cannot be used: {error.strerror}") from None
    server = MailServer(settings.smtp_e_mails_per_connection)
    password = settings.smtp_password
    client = partial(
        SMTP,
        hostname=settings.smtp_host,
        port=settings.smtp_port,
        username=settings.smtp_username,
        password=password.get_secret_value() if password else None,
        use_tls=settings.smtp_tls == "tls",
        cert_bundle=settings.smtp_ca,
        start_tls=settings.smtp_tls == "starttls",
        local_hostname=sender.domain,
        timeout=None,  # after its own timeouts it would still send what it has buffered
    )
    return lambda: EmailChannel(sender, server, client())
