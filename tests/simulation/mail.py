"""The mail server, under the test's control, behind what a channel uses as aiosmtplib's client.

It keeps account of each time a letter is handed over. Only one of which the mailer cannot know what became of it may be
repeated: its answer was lost, or its mailer died or lost hold of it before the answer was recorded.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from aiosmtplib import SMTPDataError, SMTPResponse, SMTPServerDisconnected

from tests.simulation.loop import SimulatedLoop, resolve
from tests.stories.post_office import notification_id_of, subject_of
from tests.stories.snapshot import Mail

if TYPE_CHECKING:
    from tests.simulation.process import Process

MailTrouble = Literal["later", "lost", "unheard"]
"""What becomes of a letter: "not now"; the connection is lost before the server has it, or before its answer comes."""

MAIL_TROUBLES: Final = ("later", "lost", "unheard")
REFUSED: Final = "refused"
"""Prefix of the addresses whose e-mails the server refuses."""

TAKEN: Final = SMTPResponse(250, "OK")


@dataclass(eq=False)
class Posted:
    """One attempt of a dispatcher to send an e-mail."""

    process: "Process"
    recipient: str
    source: bytes
    answer: "asyncio.Future[SMTPResponse]"

    @cached_property
    def headers(self) -> Message:
        return BytesHeaderParser().parsebytes(self.source)

    @property
    def id(self) -> str:
        """Of the letter."""
        return notification_id_of(self.headers)


class Office:
    """Where all letters arrive."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.troubles: deque[str] = deque()
        """What becomes of the next letters, one after the other."""
        self._arrived: list[tuple[str, tuple[str, ...], str]] = []
        self._doubtful: Counter[str] = Counter()

    def take(self, posted: Posted) -> None:
        """A letter has come over its connection."""
        address = posted.recipient
        trouble = self.troubles.popleft() if self.troubles else ""
        if trouble == "lost":
            reply: SMTPResponse | Exception = SMTPServerDisconnected("before the letter was taken")
        elif address.startswith(REFUSED):
            reply = SMTPDataError(550, "no such mailbox")
        elif trouble == "later":
            reply = SMTPDataError(451, "later")
        else:
            self._arrived.append((posted.id, (address,), subject_of(posted.headers)))
            reply = TAKEN
            if trouble == "unheard":
                self.doubt([posted])
                reply = SMTPServerDisconnected("after the letter was taken")
        if reply != TAKEN:
            self._settle(posted)
        self.loop.outside("mail server answers", resolve, posted.answer, reply)

    def doubt(self, letters: Collection[Posted]) -> None:
        """Nobody knows, or will know, what became of these: each may come once more."""
        self._doubtful.update(posted.id for posted in letters if self._settle(posted))

    @staticmethod
    def _settle(posted: Posted) -> bool:
        """Whatever becomes of it, it excuses no copy from now on. Says whether it did up to now."""
        if posted not in posted.process.handed_over:
            return False
        posted.process.handed_over.remove(posted)
        return True

    def seen(self, addresses: Collection[str]) -> Mail:
        """What has arrived, and how many copies too many may have."""
        ids = Counter(id for id, _, _ in self._arrived)
        copies = sum(min(count - 1, self._doubtful[id]) for id, count in ids.items())
        refused = {address for address in addresses if address.startswith(REFUSED)}
        return Mail(list(self._arrived), refused, copies)


class SimulatedClient:
    """What a channel uses as aiosmtplib's client. It connects at once; e-mails may fail."""

    transport = None

    def __init__(self, process: "Process", office: Office) -> None:
        self.is_connected = False
        self._process = process
        self._office = office
        self._recipient = ""

    async def connect(self) -> None:
        self.is_connected = True

    async def noop(self) -> None:
        """It responds, as always."""

    async def mail(self, _sender: str) -> None:
        self._process.check()

    async def rcpt(self, recipient: str) -> None:
        self._recipient = recipient

    async def data(self, message: bytes) -> SMTPResponse:
        loop = self._office.loop
        posted = Posted(self._process, self._recipient, message, loop.create_future())
        self._process.handed_over.append(posted)
        loop.outside(f"{self._process.name}: mail", self._office.take, posted)
        return await posted.answer

    async def rset(self, *, timeout: float) -> None:  # noqa: ASYNC109 - aiosmtplib's
        """Nothing is left of an e-mail that was refused."""

    async def quit(self, *, timeout: float) -> None:  # noqa: ASYNC109 - aiosmtplib's
        """Closed by the channel."""

    def close(self) -> None:
        self.is_connected = False
