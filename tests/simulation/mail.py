"""The mail server, under the test's control, behind what a channel uses as aiosmtplib's client.

It counts how often each e-mail is handed over. Only one whose outcome the dispatcher cannot know may be
repeated: its answer was lost, or its dispatcher died or lost hold of it before the answer was recorded.
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
from tests.stories.mail_server import notification_id_of, subject_of
from tests.stories.snapshot import Mail

if TYPE_CHECKING:
    from tests.simulation.process import Process

MailTrouble = Literal["later", "lost", "no reply"]
"""What becomes of an e-mail: "not now"; the connection is lost before the server has it, or before its answer comes."""

MAIL_TROUBLES: Final = ("later", "lost", "no reply")
REFUSED: Final = "refused"
"""Prefix of the addresses whose e-mails the server refuses."""

TAKEN: Final = SMTPResponse(250, "OK")


@dataclass(eq=False)
class Submission:
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
        """Of the e-mail."""
        return notification_id_of(self.headers)


class Mailboxes:
    """Where all e-mails arrive."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.troubles: deque[str] = deque()
        """What becomes of the next e-mails, one after the other."""
        self._arrived: list[tuple[str, tuple[str, ...], str]] = []
        self._doubtful: Counter[str] = Counter()

    def take(self, submission: Submission) -> None:
        """An e-mail has come over its connection."""
        address = submission.recipient
        trouble = self.troubles.popleft() if self.troubles else ""
        if trouble == "lost":
            reply: SMTPResponse | Exception = SMTPServerDisconnected("before the e-mail was taken")
        elif address.startswith(REFUSED):
            reply = SMTPDataError(550, "no such mailbox")
        elif trouble == "later":
            reply = SMTPDataError(451, "later")
        else:
            self._arrived.append((submission.id, (address,), subject_of(submission.headers)))
            reply = TAKEN
            if trouble == "no reply":
                self.doubt([submission])
                reply = SMTPServerDisconnected("after the e-mail was taken")
        if reply != TAKEN:
            self._settle(submission)
        self.loop.outside("mail server answers", resolve, submission.answer, reply)

    def doubt(self, emails: Collection[Submission]) -> None:
        """Nobody knows, or will know, what became of these: each may come once more."""
        self._doubtful.update(submission.id for submission in emails if self._settle(submission))

    @staticmethod
    def _settle(submission: Submission) -> bool:
        """Whatever becomes of it, it excuses no copy from now on. Says whether it did up to now."""
        if submission not in submission.process.handed_over:
            return False
        submission.process.handed_over.remove(submission)
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

    def __init__(self, process: "Process", mailboxes: Mailboxes) -> None:
        self.is_connected = False
        self._process = process
        self._mailboxes = mailboxes
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
        loop = self._mailboxes.loop
        submission = Submission(self._process, self._recipient, message, loop.create_future())
        self._process.handed_over.append(submission)
        loop.outside(f"{self._process.name}: mail", self._mailboxes.take, submission)
        return await submission.answer

    async def rset(self, *, timeout: float) -> None:  # noqa: ASYNC109 - aiosmtplib's
        """Nothing is left of an e-mail that was refused."""

    async def quit(self, *, timeout: float) -> None:  # noqa: ASYNC109 - aiosmtplib's
        """Closed by the channel."""

    def close(self) -> None:
        self.is_connected = False
