"""A connection to the mail server, used for many letters (RFC 5321).

aiosmtplib connects, encrypts, signs in and speaks the protocol. Its `sendmail` parses every address four times and
raises for every answer; the commands are given here one by one, at half the cost, and an answer is a value. It
cannot have several commands under way (PIPELINING): letters go side by side over several connections instead.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Final

import structlog
from aiosmtplib import SMTP, SMTPDataError, SMTPException, SMTPResponseException
from prometheus_client import Gauge

from apps.common.settings import Settings

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 15.0
"""Time to connect, encrypt and sign in."""

RESET_SECONDS: Final = 5.0

LONGEST_PAUSE: Final = 10.0
"""Seconds between two attempts to connect to a server that is away."""

AWAY = Gauge("chorus_smtp_away", "1 while the mail server takes no letters.")

_CLOSING: Final = 421
"""The server closes the connection, whatever the command was."""

_SIGN_IN: Final = frozenset({530, 534, 535, 538})
"""The server wants a login, or another one (RFC 4954): no word about the letter."""


class ServerAwayError(Exception):
    """No mail server that would take letters; nothing has been said about any letter."""


class WornConnectionError(Exception):
    """A connection that has served well ended before the letter was on it; the letter can have a new one at once."""


class ConnectionLostError(Exception):
    """The connection ended, or the server was silent, while a letter was on it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said in the end."""

    code: int
    text: str


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
        self._mail_from = b"FROM:<%s>" % sender.encode("ascii")
        self._letters = 0
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
        return self._smtp.is_connected

    async def open(self) -> None:
        """Connect, encrypt and sign in as the settings say. Raises ServerAwayError."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._smtp.connect()
                await self._smtp.noop()  # greets the server first, if signing in has not
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            self.close()
            raise ServerAwayError(repr(error)) from error
        self._letters = 0

    async def send(self, recipient: bytes, message: bytes, seconds: float) -> Reply:
        """Hand one letter to the server: its answer, positive or not.

        Raises ServerAwayError or WornConnectionError if the connection ended before it came to the letter, and
        ConnectionLostError if it ended later, or after `seconds`.
        """
        trouble: type[Exception] = WornConnectionError if self._letters else ServerAwayError
        try:
            async with asyncio.timeout(seconds):
                reply = await self._command(b"MAIL", self._mail_from)
                trouble = ConnectionLostError
                if reply.code == 250:
                    reply = await self._transfer(recipient, message)
        except (SMTPException, OSError, TimeoutError) as error:
            self.close()
            raise trouble(repr(error)) from error
        except BaseException:
            self.close()
            raise
        self._letters += 1
        return reply

    async def _transfer(self, recipient: bytes, message: bytes) -> Reply:
        reply = await self._command(b"RCPT", b"TO:<%s>" % recipient)
        if reply.code in {250, 251}:
            try:
                response = await self._smtp.data(message, timeout=None)
                return Reply(response.code, response.message)
            except SMTPDataError as error:
                reply = Reply(error.code, error.message)
        await self._reset()
        return reply

    async def _reset(self) -> None:
        """Make the connection ready for the next letter after a refusal, or close it: the refusal stands."""
        try:
            async with asyncio.timeout(RESET_SECONDS):
                await self._smtp.rset(timeout=None)
        except (SMTPException, OSError, TimeoutError):
            self.close()

    async def _command(self, *words: bytes) -> Reply:
        response = await self._smtp.execute_command(*words, timeout=None)
        if response.code == _CLOSING or response.code in _SIGN_IN:
            raise SMTPResponseException(response.code, response.message)
        return Reply(response.code, response.message)

    async def quit(self) -> None:
        """Take leave of the server."""
        if self.is_open:
            with contextlib.suppress(SMTPException, OSError, TimeoutError):
                await self._smtp.quit(timeout=2)
        self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self._smtp.close()
