"""Composes MIME messages: headers, and the text as plain text and as HTML (RFC 5322, RFC 2046).

The standard library's message classes take ten times as long, so only its encoders are used. The same content gives the
same bytes, in short lines of ASCII: no text can end a header or a part. Tests parse them with the standard library.
"""

import email.policy
import re
from binascii import b2a_qp
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final, Self

from apps.notifications import rendering
from apps.notifications.models import Notification

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
