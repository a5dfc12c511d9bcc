"""A real SMTP server in the tests' process: keeps every letter; can be slow, refuse, break off, or be gone."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from aiosmtpd import smtp

from tests.support.eventually import eventually
from tools.mail_catcher import Email

OK: Final = "250 OK"

BREAK_OFF: Final = "break off"
"""As a reply: close the connection instead of saying anything."""


class MailSink:
    """Where letters arrive. `options` are aiosmtpd's, such as `tls_context`; `ssl` encrypts from the first byte."""

    def __init__(self, *, ssl: Any = None, **options: Any) -> None:
        self.letters: list[Email] = []
        self.port = 0
        self.asked: Counter[str] = Counter()
        """How often a letter to each address was begun."""
        self.connections = 0
        """How many connections there have been."""
        self._ssl = ssl
        self._options = options
        self._replies: dict[tuple[str, str], str] = {}
        self._delay = 0.0
        self._most_letters = 0
        self._taken: Counter[smtp.SMTP] = Counter()
        self._server: asyncio.Server | None = None
        self._open: set[smtp.SMTP] = set()

    def to(self, address: str) -> list[Email]:
        """The letters to an address, as they arrived."""
        return [letter for letter in self.letters if address in letter.recipients]

    async def gets(self, address: str, count: int = 1, *, within: float = 30) -> list[Email]:
        """Wait for so many letters to an address; more are an error."""

        async def enough() -> None:
            assert len(self.to(address)) >= count

        await eventually(enough, within=within)
        assert len(self.to(address)) == count
        return self.to(address)

    @contextlib.contextmanager
    def saying(self, reply: str, *, at: str = "RCPT", to: str = "") -> Iterator[None]:
        """Answer so at MAIL, RCPT or DATA: to one address, or to everybody."""
        self._replies[at, to] = reply
        try:
            yield
        finally:
            del self._replies[at, to]

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Take so long to answer once a letter is there."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextlib.contextmanager
    def closing_after(self, letters: int) -> Iterator[None]:
        """Take so many letters on a connection, then close it."""
        self._most_letters = letters
        try:
            yield
        finally:
            self._most_letters = 0

    @contextlib.asynccontextmanager
    async def gone(self) -> AsyncIterator[None]:
        """Cut all connections and take no more in this block."""
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

    # What aiosmtpd calls.

    async def handle_EHLO(  # noqa: N802
        self,
        _server: smtp.SMTP,
        session: smtp.Session,
        _envelope: smtp.Envelope,
        name: str,
        answer: list[str],
    ) -> list[str]:
        session.host_name = name
        return ["250-PIPELINING", *answer]

    async def handle_MAIL(  # noqa: N802
        self,
        server: smtp.SMTP,
        _session: smtp.Session,
        envelope: smtp.Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        if 0 < self._most_letters <= self._taken[server]:
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
        if reply == OK:
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(  # noqa: N802
        self, server: smtp.SMTP, _session: smtp.Session, envelope: smtp.Envelope
    ) -> str:
        reply = self._reply(server, "DATA", envelope.rcpt_tos[0])
        if reply in {OK, BREAK_OFF}:  # a server may break off when it has the letter
            self.letters.append(Email(envelope))
            self._taken[server] += 1
        await asyncio.sleep(self._delay)
        return reply


def _abort(connection: smtp.SMTP) -> None:
    if isinstance(connection.transport, asyncio.WriteTransport):
        connection.transport.abort()
