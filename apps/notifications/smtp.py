"""A connection to the mail server, used for many letters (RFC 5321).

aiosmtplib connects, encrypts, signs in and greets. Its `sendmail` parses every address four times, raises for every
answer, and gives one command at a time; what a letter needs is said here instead, and an answer is a value. Letters go
side by side over several connections.
"""

import asyncio
import contextlib
import random
from typing import Final, cast

import structlog
from aiosmtplib import SMTP, SMTPException
from prometheus_client import Gauge

from apps.notifications.conversation import (
    DATA,
    DONE,
    END_OF_LETTER,
    GO_ON,
    NEVER,
    NOT_NOW,
    Conversation,
    NoMailServerError,
    Reply,
)
from chassis.runtime.settings import Settings

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 15.0
"""Time to connect, encrypt and sign in."""

RESET_SECONDS: Final = 5.0
QUIT_SECONDS: Final = 2.0

LONGEST_PAUSE: Final = 10.0
"""Seconds between two attempts to connect to a server that is away."""

AWAY = Gauge("chorus_smtp_away", "1 while the mail server takes no letters.")

_NO_WORD: Final = frozenset({421, 530, 534, 535, 538})
"""No word about the letter: the server closes the connection, or wants a login, or another one (RFC 4954)."""


class ServerAwayError(Exception):
    """No mail server that would take letters; nothing has been said about any letter."""


class WornConnectionError(Exception):
    """A connection that has served well ended before the letter was on it; the letter can have a new one at once."""


class ConnectionLostError(Exception):
    """The connection ended, the server was silent, or what it said was no answer, while a letter was on it."""


class MailServer:
    """The mail server, as all connections of this process know it."""

    def __init__(self, settings: Settings, sender: str, name: str) -> None:
        self._settings = settings
        self._sender = sender
        self._name = name
        self._connecting = asyncio.Lock()
        self._well = asyncio.Event()
        self._failures = 0

    def connection(self) -> "Connection":
        """A connection, not open yet."""
        return Connection(self._settings, self._sender, self._name)

    async def ready(self, connection: "Connection") -> None:
        """Open a connection, however long the server stays away: one at a time, with pauses that grow."""
        async with self._connecting:
            while not connection.is_open:
                if self._failures:
                    with contextlib.suppress(TimeoutError):
                        jitter = random.random()  # noqa: S311 - no secret
                        async with asyncio.timeout(pause(self._failures, jitter)):
                            await self._well.wait()
                connection.failures_before = self._failures
                try:
                    await connection.open()
                except ServerAwayError as error:
                    self.failed(connection, error)

    def failed(self, connection: "Connection", error: Exception) -> None:
        """It does not let a connection in, or breaks it off: the next attempt to connect comes later.

        Connections that break together are one failure: only one made since the last failure tells of another.
        """
        if connection.failures_before < self._failures:
            return
        self._failures += 1
        self._well.clear()
        AWAY.set(1)
        log.warning("smtp.trouble", error=str(error), failures=self._failures)

    def answered(self) -> None:
        """It answers about letters: all is well."""
        if self._failures:
            log.info("smtp.well", failures=self._failures)
            self._failures = 0
            AWAY.set(0)
            self._well.set()


def pause(failures: int, jitter: float) -> float:
    """Seconds before the next attempt to connect, after so many in vain; `jitter` from 0 to 1 takes up to half off."""
    return min(0.1 * 2.0 ** min(failures, 16), LONGEST_PAUSE) * (1 - jitter / 2)


class Connection:
    """Opened when it is needed, and again after it was lost. Not for two letters at a time."""

    def __init__(self, settings: Settings, sender: str, name: str) -> None:
        password = settings.smtp_password
        self._mail_from = b"MAIL FROM:<%s>" % sender.encode("ascii")
        self._answered = 0
        """How many letters it has had an answer to since it was opened."""
        self._conversation: Conversation | None = None
        self._at_once = False
        """Whether the server takes several commands at once."""
        self.failures_before = 0
        """How often in a row the server had failed when this connection was opened."""
        self._smtp = SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username,
            password=password.get_secret_value() if password else None,
            use_tls=settings.smtp_tls == "tls",
            start_tls=settings.smtp_tls == "starttls",
            local_hostname=name,
            timeout=CONNECT_SECONDS,
        )

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._conversation is not None and self._conversation.is_open

    async def open(self) -> None:
        """Connect, encrypt and sign in as the settings say. Raises ServerAwayError."""
        self.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._smtp.connect()
                await self._smtp.noop()  # greets the server first, if signing in has not
            if (transport := self._smtp.transport) is None or transport.is_closing():
                raise ConnectionResetError("the server closed the connection")
            self._conversation = Conversation.on(cast("asyncio.Transport", transport))
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            self.close()
            raise ServerAwayError(repr(error)) from error
        self._at_once = self._smtp.supports_extension("pipelining")
        self._answered = 0

    async def send(self, recipient: bytes, message: bytes, seconds: float) -> Reply:
        """Hand one letter to the server: its answer, positive or not.

        Raises ServerAwayError or WornConnectionError if the connection ended, or `seconds` passed, before the server
        had said anything to the letter; ConnectionLostError if that was later.
        """
        assert self._conversation is not None
        letter = _Letter(self._conversation, at_once=self._at_once)
        try:
            async with asyncio.timeout(seconds):
                reply = await letter.send(self._mail_from, recipient, message)
        except (OSError, TimeoutError) as error:
            self.close()
            if letter.refusal is not None:
                return letter.refusal  # which stands, whatever the server has done then
            if letter.known:
                raise ConnectionLostError(repr(error)) from error
            trouble = WornConnectionError if self._answered else ServerAwayError
            raise trouble(repr(error)) from error
        except BaseException:
            self.close()
            raise
        self._answered += 1
        if reply.kind != DONE:
            await self._reset()
        return reply

    async def _reset(self) -> None:
        """Make the connection ready for the next letter after a refusal, or close it: the refusal stands."""
        if (reply := await self._says(b"RSET", RESET_SECONDS)) is None or reply.kind != DONE:
            self.close()

    async def quit(self) -> None:
        """Take leave of the server."""
        if self.is_open:
            await self._says(b"QUIT", QUIT_SECONDS)
        self.close()

    async def _says(self, command: bytes, seconds: float) -> Reply | None:
        assert self._conversation is not None
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                self._conversation.say(command)
                return await self._conversation.hear()
        return None

    def close(self) -> None:
        """Close the connection at once."""
        self._conversation = None
        if (transport := self._smtp.transport) is not None:
            # What has not gone out yet must not follow later, beside a copy on the next connection.
            cast("asyncio.Transport", transport).abort()
        self._smtp.close()


class _Letter:
    """One letter's part of a conversation."""

    def __init__(self, conversation: Conversation, *, at_once: bool) -> None:
        self._conversation = conversation
        self._at_once = at_once
        self.known = False
        """Whether the server has said anything about it."""
        self.refusal: Reply | None = None
        """Why the server does not take it."""

    async def send(self, mail_from: bytes, recipient: bytes, message: bytes) -> Reply:
        """What the server says in the end. Raises ConnectionError, also for what no mail server would say."""
        commands = (mail_from, b"RCPT TO:<%s>" % recipient, DATA)
        if self._at_once:
            self._conversation.say(*commands)
        answers: list[Reply] = []
        for command in commands:
            if not self._at_once:
                self._conversation.say(command)
            answers.append(await self._conversation.hear())
            self._weigh(command, answers[-1])
            if self.refusal is not None and not self._at_once:
                return self.refusal
        if self.refusal is None:
            self._conversation.say_letter(message)
            return await self._conversation.hear()
        _, rcpt, data = answers
        if data.kind == GO_ON:
            await self._end_without_a_letter(rcpt)
        return self.refusal

    def _weigh(self, command: bytes, reply: Reply) -> None:
        if self.refusal is None and reply.code in _NO_WORD:
            raise ConnectionResetError(f"{reply.code} {reply.text}")
        self.known = True
        if reply.kind in {NOT_NOW, NEVER}:
            self.refusal = self.refusal or reply
        elif reply.kind != (GO_ON if command == DATA else DONE):
            raise NoMailServerError(f"{reply.code} {reply.text}")

    async def _end_without_a_letter(self, rcpt: Reply) -> None:
        """A server has refused the letter, and then let DATA pass: it waits for one (RFC 2920, 3.1)."""
        if rcpt.kind == DONE:
            # The recipient was accepted: the end of a letter now would send him an empty one.
            raise NoMailServerError("it refuses a letter, and wants it")
        self._conversation.say(END_OF_LETTER)
        await self._conversation.hear()
