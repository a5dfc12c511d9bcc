"""Composes MIME messages: headers, and the text as plain text and as HTML (RFC 5322, RFC 2046).

The standard library's EmailMessage takes more than a millisecond for each message, twice what everything else about it
costs. So it writes only the sender, once. Plain ASCII goes as it is, everything else in base64, so that no text can
end a header or a part. The same content gives the same bytes. Tests parse them with the standard library.
"""

import binascii
import email.policy
import re
from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final, Self
from uuid import UUID

_PLAIN: Final = re.compile(r"[!-~](?:[ -~]{0,58}[!-~])?")
"""A header value that needs no encoding: printable ASCII that fits in a line."""

_WORD: Final = 9
"""Characters in one encoded word: with four bytes each, a header's lines stay below 76 (RFC 2047)."""

_LINE: Final = 76
"""Characters in a line of base64 (RFC 2045)."""

_ADDRESS: Final = re.compile(
    r"[^\s<>()\[\]\\,;:@\"\x00-\x1f\x7f]{1,64}@[A-Za-z0-9.-]{1,253}", re.ASCII
)


class UnsendableError(ValueError):
    """An e-mail that no mail server would accept."""


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of all e-mails."""

    header: bytes
    """The From header, with its end of line."""
    address: str
    domain: str

    @classmethod
    def of(cls, mail_from: str) -> Self:
        """Read a setting such as "Chorus <orders@example.com>". Raises LookupError if it is no address."""
        message = EmailMessage(policy=email.policy.SMTP)
        try:
            message["From"] = mail_from
            (found,) = message["From"].addresses
            envelope(found.addr_spec)
        except ValueError as error:
            raise LookupError(f"CHORUS_MAIL_FROM is not one e-mail address: {error}") from None
        header = message.policy.fold("From", message["From"]).encode("ascii")
        return cls(header, found.addr_spec, found.domain)


def envelope(address: str) -> bytes:
    """An address for SMTP. Raises UnsendableError for anything but one plain ASCII address."""
    if not (_ADDRESS.fullmatch(address) and address.isascii()):
        raise UnsendableError("this is not an address that mail can be sent to")
    return address.encode("ascii")


def compose(
    sender: Sender, id: UUID, to: str, subject: str, text: str, html: str, date: datetime
) -> bytes:
    """The message, with CR LF at the ends of lines. Raises UnsendableError."""
    boundary = b"=_" + id.hex.encode()
    return b"".join((
        sender.header,
        b"To: ", envelope(to),
        b"\r\nSubject: ", _header(subject),
        b"\r\nDate: ", format_datetime(date).encode(),
        b"\r\nMessage-ID: <", f"{id}@{sender.domain}".encode(),
        b">\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0",
        b'\r\nContent-Type: multipart/alternative;\r\n boundary="', boundary, b'"\r\n\r\n--',
        boundary, b"\r\n", _part(b"plain", text), b"\r\n--",
        boundary, b"\r\n", _part(b"html", html), b"\r\n--",
        boundary, b"--\r\n",
    ))  # fmt: skip


def _header(text: str) -> bytes:
    """A header value: as it is, or in encoded words of whole characters."""
    if _PLAIN.fullmatch(text) and "=?" not in text:
        return text.encode()
    words = [text[start : start + _WORD].encode() for start in range(0, len(text), _WORD)]
    return b"\r\n ".join(b"=?utf-8?b?%b?=" % b64encode(word) for word in words)


def _part(kind: bytes, text: str) -> bytes:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip() + "\n"
    raw = lines.replace("\n", "\r\n").encode()
    if text.isascii():
        encoding, body = b"quoted-printable", binascii.b2a_qp(raw)
    else:
        code = b64encode(raw)
        rows = [code[start : start + _LINE] for start in range(0, len(code), _LINE)]
        encoding, body = b"base64", b"\r\n".join((*rows, b""))
    return b"".join((
        b"Content-Type: text/", kind, b'; charset="utf-8"\r\nContent-Transfer-Encoding: ', encoding,
        b"\r\n\r\n", body,
    ))  # fmt: skip
