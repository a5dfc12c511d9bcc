"""An SMTP session on an open connection (RFC 5321), with command pipelining (RFC 2920).

aiosmtplib connects, encrypts and signs in. Its own protocol waits for the reply to each command before it sends the
next: four round trips and as many writes for each e-mail. Where a server announces PIPELINING, MAIL, RCPT and DATA
go in one write, which halves both.
"""

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import Final, Self

REPLY_LIMIT: Final = 65_536
"""Bytes of one reply; a longer one is a protocol error."""

DATA: Final = b"DATA"
END_OF_DATA: Final = b"."

COMPLETED, INTERMEDIATE, TRANSIENT, PERMANENT = 2, 3, 4, 5
"""Categories of replies (RFC 5321, 4.2.1)."""

_REPLY_LINE: Final = re.compile(rb"[2-5][0-9]{2}(?:[ -]|$)")


class ProtocolError(ConnectionError):
    """The server does not follow SMTP."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply: its code, and the text of all lines."""

    code: int
    text: str

    @property
    def category(self) -> int:
        """The first digit of the code: COMPLETED, INTERMEDIATE, TRANSIENT or PERMANENT."""
        return self.code // 100


class SmtpSession(asyncio.Protocol):
    """Sends commands and reads replies, in the same order.

    It ends with the connection, and with a reply to no command: this is how a server announces that it closes an idle
    connection.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._unanswered = 0
        self._partial = b""
        self._lines: list[bytes] = []
        self._replies: deque[Reply] = deque()
        self._changed = asyncio.Event()
        self._error: OSError | None = None

    @classmethod
    def on(cls, transport: asyncio.Transport) -> Self:
        """Take over a connection on which no reply is outstanding."""
        session = cls(transport)
        transport.set_protocol(session)
        return session

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as is known."""
        return self._error is None and not self._transport.is_closing()

    def send_command(self, *commands: bytes) -> None:
        """Send commands in one write; `read_reply` returns a reply for each. Raises ConnectionError."""
        if not self.is_open:
            raise self._error or ConnectionResetError("the connection was closed")
        self._unanswered += len(commands)
        self._transport.write(b"\r\n".join((*commands, b"")))

    def send_message(self, message: bytes) -> None:
        """Send the message after DATA, lines that end with CR LF; one reply follows. Raises ConnectionError."""
        self.send_command(message.replace(b"\r\n.", b"\r\n..") + END_OF_DATA)

    async def read_reply(self) -> Reply:
        """The next reply. Raises ConnectionError if the connection ends before."""
        while not self._replies:
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
        return self._replies.popleft()

    # Callbacks of the event loop.

    def data_received(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        try:
            for line in lines:
                self._parse(line.rstrip(b"\r"))
        except ProtocolError as error:
            self._end(error)
        if len(self._partial) + sum(map(len, self._lines)) > REPLY_LIMIT:
            self._end(ProtocolError("a reply without an end"))
        self._changed.set()

    def _parse(self, line: bytes) -> None:
        """Add a line of a reply; all but the last have a hyphen after the code."""
        if not _REPLY_LINE.match(line):
            raise ProtocolError(f"not a reply: {line[:80]!r}")
        self._lines.append(line)
        if line[3:4] == b"-":
            return
        text, self._lines = b"\n".join(part[4:].strip() for part in self._lines), []
        if not self._unanswered:
            raise ProtocolError(f"a reply to no command: {line[:80]!r}")
        self._unanswered -= 1
        self._replies.append(Reply(int(line[:3]), text.decode("utf-8", "surrogateescape")))

    def eof_received(self) -> None:
        self._end(ConnectionResetError("the server closed its side"))

    def connection_lost(self, exc: Exception | None) -> None:
        closed = ConnectionResetError(repr(exc) if exc else "the server closed the connection")
        self._end(exc if isinstance(exc, OSError) else closed)

    def _end(self, error: OSError) -> None:
        self._error = self._error or error
        self._transport.close()
        self._changed.set()
