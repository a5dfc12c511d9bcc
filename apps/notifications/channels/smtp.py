"""Connections to the mail server, each used for many e-mails, one at a time (RFC 5321).

aiosmtplib connects, encrypts and signs in. Its `sendmail` parses every address four times, raises for every negative
reply, and sends one command at a time; so mail transactions are made here, and a reply is a value.
"""

import asyncio
import contextlib
import random
from functools import partial
from typing import Final, cast

import structlog
from aiosmtplib import SMTP, SMTPException
from prometheus_client import Gauge

from apps.notifications.channels import ServerAwayError
from apps.notifications.channels.smtp_session import (
    COMPLETED,
    DATA,
    END_OF_DATA,
    INTERMEDIATE,
    PERMANENT,
    TRANSIENT,
    ProtocolError,
    Reply,
    SmtpSession,
)
from chassis.runtime.settings import Settings

log = structlog.get_logger(__name__)

CONNECT_SECONDS: Final = 15.0
"""Time to connect, encrypt and sign in."""

RESET_SECONDS: Final = 5.0
QUIT_SECONDS: Final = 2.0

LONGEST_PAUSE: Final = 10.0
"""Seconds between two attempts to connect to a server that is away."""

AWAY = Gauge("chorus_smtp_away", "1 while the mail server accepts no e-mails.")

_ABOUT_THE_CONNECTION: Final = frozenset({421, 530, 534, 535, 538})
"""Replies that do not concern the e-mail: the server closes the connection, or requires authentication (RFC 4954)."""


class WornConnectionError(Exception):
    """A connection that has carried e-mails ended without a reply to this one, which may be sent again at once."""


class ConnectionLostError(Exception):
    """The connection ended, timed out, or broke the protocol after a reply to this e-mail."""


class MailServer:
    """What all connections of this process know of the mail server."""

    def __init__(self, settings: Settings, sender: str, name: str) -> None:
        self.connection = partial(Connection, settings, sender, name)
        """Makes a connection, not open yet."""
        self._connecting = asyncio.Lock()
        self._recovered = asyncio.Event()
        self._failures = 0

    async def ready(self, connection: "Connection") -> None:
        """Open a connection, however long the server is away: one at a time, with growing pauses."""
        async with self._connecting:
            while not connection.is_open:
                if self._failures:
                    with contextlib.suppress(TimeoutError):
                        jitter = random.random()  # noqa: S311 - no secret
                        async with asyncio.timeout(pause(self._failures, jitter)):
                            await self._recovered.wait()
                connection.failures_before = self._failures
                try:
                    await connection.open()
                except ServerAwayError as error:
                    self.failed(connection, error)

    def failed(self, connection: "Connection", error: Exception) -> None:
        """Note that the server refused or broke a connection: the next attempt to connect comes later.

        Connections that break together are one failure: only one opened since the last failure counts as another.
        """
        if connection.failures_before < self._failures:
            return
        self._failures += 1
        self._recovered.clear()
        AWAY.set(1)
        log.warning("smtp.trouble", error=str(error), failures=self._failures)

    def answered(self) -> None:
        """Note that the server replies to e-mails: it is not away."""
        if self._failures:
            log.info("smtp.well", failures=self._failures)
            self._failures = 0
            AWAY.set(0)
            self._recovered.set()


def pause(failures: int, jitter: float) -> float:
    """Seconds before the next attempt to connect after so many failures; `jitter` from 0 to 1 takes up to half off."""
    return min(0.1 * 2.0 ** min(failures, 16), LONGEST_PAUSE) * (1 - jitter / 2)


class Connection:
    """A connection that can be opened again after it was lost. It carries one e-mail at a time."""

    def __init__(self, settings: Settings, sender: str, name: str) -> None:
        password = settings.smtp_password
        self._mail_from = b"MAIL FROM:<%s>" % sender.encode("ascii")
        self._replied = 0
        """E-mails that were replied to since it was opened."""
        self._session: SmtpSession | None = None
        self._pipelining = False
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
        """Whether the connection is open, as far as is known."""
        return self._session is not None and self._session.is_open

    async def open(self) -> None:
        """Connect, encrypt and sign in as configured. Raises ServerAwayError."""
        self.close()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._smtp.connect()
                await self._smtp.noop()  # sends EHLO first, if signing in has not
            if (transport := self._smtp.transport) is None or transport.is_closing():
                raise ConnectionResetError("the server closed the connection")
            self._session = SmtpSession.on(cast("asyncio.Transport", transport))
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            self.close()
            raise ServerAwayError(repr(error)) from error
        self._pipelining = self._smtp.supports_extension("pipelining")
        self._replied = 0

    async def send(self, recipient: bytes, message: bytes, seconds: float) -> Reply:
        """Send one e-mail within so many seconds, and return the server's final reply, positive or negative.

        Raises ServerAwayError or WornConnectionError if the connection ended, or the time was over, before any reply
        to the e-mail; ConnectionLostError if that was later.
        """
        assert self._session is not None
        transaction = _MailTransaction(self._session, pipelining=self._pipelining)
        try:
            async with asyncio.timeout(seconds):
                reply = await transaction.run(self._mail_from, recipient, message)
        except (OSError, TimeoutError) as error:
            self.close()
            if transaction.refusal is not None:
                return transaction.refusal  # final, whatever happens to the connection later
            if transaction.replied:
                raise ConnectionLostError(repr(error)) from error
            ended = WornConnectionError if self._replied else ServerAwayError
            raise ended(repr(error)) from error
        except BaseException:
            self.close()
            raise
        self._replied += 1
        if reply.category != COMPLETED:
            # Without a completed RSET the connection is closed; the refusal is final.
            reset = await self._command(b"RSET", RESET_SECONDS)
            if reset is None or reset.category != COMPLETED:
                self.close()
        return reply

    async def quit(self) -> None:
        """End the session with QUIT, and close the connection."""
        if self.is_open:
            await self._command(b"QUIT", QUIT_SECONDS)
        self.close()

    async def _command(self, command: bytes, seconds: float) -> Reply | None:
        assert self._session is not None
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(seconds):
                self._session.send_command(command)
                return await self._session.read_reply()
        return None

    def close(self) -> None:
        """Close the connection at once."""
        self._session = None
        if (transport := self._smtp.transport) is not None:
            # Buffered data must not be sent later, after a copy on the next connection.
            cast("asyncio.Transport", transport).abort()
        self._smtp.close()


class _MailTransaction:
    """One mail transaction of a session (RFC 5321, 3.3): MAIL, RCPT, DATA, and the message."""

    def __init__(self, session: SmtpSession, *, pipelining: bool) -> None:
        self._session = session
        self._pipelining = pipelining
        self.replied = False
        """Whether the server has replied to the e-mail."""
        self.refusal: Reply | None = None
        """The first negative reply, which is final."""

    async def run(self, mail_from: bytes, recipient: bytes, message: bytes) -> Reply:
        """The final reply. Raises ConnectionError, also for a reply that breaks the protocol."""
        commands = (mail_from, b"RCPT TO:<%s>" % recipient, DATA)
        if self._pipelining:
            self._session.send_command(*commands)
        replies: list[Reply] = []
        for command in commands:
            if not self._pipelining:
                self._session.send_command(command)
            replies.append(await self._session.read_reply())
            self._check(command, replies[-1])
            if self.refusal is not None and not self._pipelining:
                return self.refusal
        if self.refusal is None:
            self._session.send_message(message)
            return await self._session.read_reply()
        _, rcpt, data = replies
        if data.category == INTERMEDIATE:
            await self._end_data(rcpt)
        return self.refusal

    def _check(self, command: bytes, reply: Reply) -> None:
        if self.refusal is None and reply.code in _ABOUT_THE_CONNECTION:
            raise ConnectionResetError(f"{reply.code} {reply.text}")
        self.replied = True
        if reply.category in {TRANSIENT, PERMANENT}:
            self.refusal = self.refusal or reply
        elif reply.category != (INTERMEDIATE if command == DATA else COMPLETED):
            raise ProtocolError(f"{reply.code} {reply.text}")

    async def _end_data(self, rcpt: Reply) -> None:
        """End the data phase of a server that refused the e-mail and then accepted DATA (RFC 2920, 3.1)."""
        if rcpt.category == COMPLETED:
            # With an accepted recipient, the end of data would deliver an empty e-mail.
            raise ProtocolError("it refuses an e-mail, and waits for its data")
        self._session.send_command(END_OF_DATA)
        await self._session.read_reply()
