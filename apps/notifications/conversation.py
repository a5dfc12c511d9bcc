"""What is said on an open connection to a mail server (RFC 5321), several commands at once where it takes that.

aiosmtplib connects, encrypts and signs in, and is left then: it waits for the answer to each command before it gives
the next. That is four journeys to the server and back for a letter, and as many writes. Where a server announces
PIPELINING (RFC 2920), MAIL, RCPT and DATA go together, and it is half of both.
"""

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from typing import Final, Self

ANSWER_LIMIT: Final = 65_536
"""Bytes of one answer; more is no mail server."""

DATA: Final = b"DATA"
END_OF_LETTER: Final = b"."

DONE, GO_ON, NOT_NOW, NEVER = 2, 3, 4, 5
"""Kinds of answers (RFC 5321, 4.2.1)."""

_ANSWER: Final = re.compile(rb"[2-5][0-9]{2}(?:[ -]|$)")


class NoMailServerError(ConnectionError):
    """What answers does not speak SMTP."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said: its code, and the text of all lines."""

    code: int
    text: str

    @property
    def kind(self) -> int:
        """What it says by the first digit of its code: DONE, GO_ON, NOT_NOW or NEVER; 0 if the server said nothing."""
        return self.code // 100


class Conversation(asyncio.Protocol):
    """Commands and answers, in one order.

    It ends with the connection, and with an answer that nobody has asked for: so a server takes leave of who says
    nothing for long.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._asked = 0
        self._piece = b""
        self._lines: list[bytes] = []
        self._replies: deque[Reply] = deque()
        self._heard = asyncio.Event()
        self._error: OSError | None = None

    @classmethod
    def on(cls, transport: asyncio.Transport) -> Self:
        """Go on with a connection on which nobody waits for an answer."""
        conversation = cls(transport)
        transport.set_protocol(conversation)
        return conversation

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._error is None and not self._transport.is_closing()

    def say(self, *commands: bytes) -> None:
        """Give commands, in one write. Each will be answered: `hear` as often. Raises ConnectionError."""
        if not self.is_open:
            raise self._error or ConnectionResetError("the connection was closed")
        self._asked += len(commands)
        self._transport.write(b"\r\n".join((*commands, b"")))

    def say_letter(self, message: bytes) -> None:
        """Give what DATA has announced: lines that end with CR LF. It will be answered. Raises ConnectionError."""
        self.say(message.replace(b"\r\n.", b"\r\n..") + END_OF_LETTER)

    async def hear(self) -> Reply:
        """The next answer. Raises ConnectionError if the connection ends before."""
        while not self._replies:
            if self._error is not None:
                raise self._error
            self._heard.clear()
            await self._heard.wait()
        return self._replies.popleft()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        *lines, self._piece = (self._piece + data).split(b"\n")
        try:
            for line in lines:
                self._take(line.rstrip(b"\r"))
        except NoMailServerError as error:
            self._end(error)
        if len(self._piece) + sum(map(len, self._lines)) > ANSWER_LIMIT:
            self._end(NoMailServerError("an answer without an end"))
        self._heard.set()

    def _take(self, line: bytes) -> None:
        """A line of an answer; all but the last have a hyphen behind the code."""
        if not _ANSWER.match(line):
            raise NoMailServerError(f"not an answer: {line[:80]!r}")
        self._lines.append(line)
        if line[3:4] == b"-":
            return
        text, self._lines = b"\n".join(part[4:].strip() for part in self._lines), []
        if not self._asked:
            raise NoMailServerError(f"an answer to nothing: {line[:80]!r}")
        self._asked -= 1
        self._replies.append(Reply(int(line[:3]), text.decode("utf-8", "surrogateescape")))

    def eof_received(self) -> None:
        """Called by the event loop, which closes the connection then."""
        self._end(ConnectionResetError("the server has nothing more to say"))
        self._heard.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        gone = ConnectionResetError(repr(exc) if exc else "the server closed the connection")
        self._end(exc if isinstance(exc, OSError) else gone)
        self._heard.set()

    def _end(self, error: OSError) -> None:
        self._error = self._error or error
        self._transport.close()
