"""An SMTP server in the tests' process: keeps every e-mail; can be slow, refuse, break off, or be gone."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from aiosmtpd import smtp

from apps.notifications.models import Notification
from events.users import Locale
from tests.support.eventually import eventually
from tools.mail_catcher import Email

OK: Final = "250 OK"

BREAK_OFF: Final = "break off"
"""As a reply: close the connection without a reply."""


def an_email(
    *,
    to: str = "ada@x.test",
    subject: str = "Hello",
    body: str = "Words",
    locale: Locale = "en",
) -> Notification:
    """A notification, always the same one, that can be sent by e-mail."""
    return Notification(
        id=UUID("0193af00-0000-7000-8000-000000000001"),
        user_id=UUID("0193af00-0000-7000-8000-000000000002"),
        kind="message",
        address=to,
        locale=locale,
        subject=subject,
        body=body,
        status="pending",
        created_at=datetime(2026, 11, 22, 13, 5, 12, tzinfo=UTC),
        correlation_id="flow-1",
    )


class MailSink:
    """Keeps e-mails. `options` are aiosmtpd's, such as `tls_context`; `ssl` encrypts from the first byte."""

    def __init__(self, *, ssl: Any = None, **options: Any) -> None:
        self.e_mails: list[Email] = []
        self.port = 0
        self.asked: Counter[str] = Counter()
        """How often RCPT was received for each address."""
        self.connections = 0
        """Connections since the start."""
        self._ssl = ssl
        self._options = options
        self._replies: dict[tuple[str, str], str] = {}
        self._delay = 0.0
        self._most_e_mails = 0
        self._enough = ""
        """The reply to RCPT after so many e-mails, if the connection stays open."""
        self._accepted: Counter[smtp.SMTP] = Counter()
        self._server: asyncio.Server | None = None
        self._open: set[smtp.SMTP] = set()

    def to(self, address: str) -> list[Email]:
        """The e-mails to an address, in the order of arrival."""
        return [e_mail for e_mail in self.e_mails if address in e_mail.recipients]

    async def gets(self, address: str, count: int = 1, *, within: float = 30) -> list[Email]:
        """Wait for so many e-mails to an address; more are an error."""

        async def enough() -> None:
            assert len(self.to(address)) >= count

        await eventually(enough, within=within)
        assert len(self.to(address)) == count
        return self.to(address)

    @contextlib.contextmanager
    def replying(self, reply: str, *, at: str = "RCPT", to: str = "") -> Iterator[None]:
        """Send this reply to MAIL, RCPT or DATA: for one address, or for all."""
        self._replies[at, to] = reply
        try:
            yield
        finally:
            del self._replies[at, to]

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Delay the reply to each e-mail by so much."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextlib.contextmanager
    def closing_after(self, e_mails: int) -> Iterator[None]:
        """Accept so many e-mails on a connection, then close it."""
        self._most_e_mails = e_mails
        try:
            yield
        finally:
            self._most_e_mails = 0

    @contextlib.contextmanager
    def refusing_after(self, e_mails: int, reply: str = "452 4.4.5 not now") -> Iterator[None]:
        """Accept so many e-mails on a connection, then send this reply to every RCPT, and keep it open."""
        self._most_e_mails, self._enough = e_mails, reply
        try:
            yield
        finally:
            self._most_e_mails, self._enough = 0, ""

    @contextlib.asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        """Cut all connections and accept none in this block."""
        await self.close()
        try:
            yield
        finally:
            await self.open()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, "127.0.0.1", self.port, ssl=self._ssl
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cut all connections."""
        for connection in self._open:
            _abort(connection)
        self._open.clear()

    def _connection(self) -> smtp.SMTP:
        loop = asyncio.get_running_loop()
        connection = smtp.SMTP(self, hostname="sink.test", loop=loop, **self._options)
        self._open.add(connection)
        self.connections += 1
        return connection

    def _reply(self, server: smtp.SMTP, at: str, address: str) -> str:
        reply = self._replies.get((at, address)) or self._replies.get((at, "")) or OK
        if reply == BREAK_OFF:
            _abort(server)
        return reply

    def _has_enough(self, server: smtp.SMTP) -> bool:
        return 0 < self._most_e_mails <= self._accepted[server]

    # Handlers that aiosmtpd calls.

    async def handle_EHLO(  # noqa: N802
        self,
        _server: smtp.SMTP,
        session: smtp.Session,
        _envelope: smtp.Envelope,
        name: str,
        lines: list[str],
    ) -> list[str]:
        session.host_name = name
        return lines

    async def handle_MAIL(  # noqa: N802
        self,
        server: smtp.SMTP,
        _session: smtp.Session,
        envelope: smtp.Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        if self._has_enough(server) and not self._enough:
            asyncio.get_running_loop().call_soon(_abort, server)
            return "421 enough for now"
        reply = self._reply(server, "MAIL", "")
        if reply == OK:
            envelope.mail_from = address
        return reply

    async def handle_RCPT(  # noqa: N802
        self,
        server: smtp.SMTP,
        _session: smtp.Session,
        envelope: smtp.Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        self.asked[address] += 1
        reply = self._reply(server, "RCPT", address)
        if self._has_enough(server) and self._enough:
            reply = self._enough
        if reply == OK:
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(  # noqa: N802
        self, server: smtp.SMTP, _session: smtp.Session, envelope: smtp.Envelope
    ) -> str:
        reply = self._reply(server, "DATA", envelope.rcpt_tos[0])
        if reply in {OK, BREAK_OFF}:  # a server may break off when it has the e-mail
            self.e_mails.append(Email(envelope))
            self._accepted[server] += 1
        await asyncio.sleep(self._delay)
        return reply


def _abort(connection: smtp.SMTP) -> None:
    if isinstance(connection.transport, asyncio.WriteTransport):
        connection.transport.abort()
