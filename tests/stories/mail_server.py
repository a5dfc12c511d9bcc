"""A real SMTP server in the tests' process: keeps every e-mail, and can refuse some, or be gone for a while."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesHeaderParser
from functools import cached_property
from typing import Any

from aiosmtpd import smtp

from tools.mail_catcher import Email

OK = "250 OK"


class Mail(Email):
    """An e-mail as it arrived. Its headers are read without its body, which takes a tenth of the time."""

    @cached_property
    def headers(self) -> Message:
        return BytesHeaderParser().parsebytes(self.source)

    @property
    def subject(self) -> str:
        return subject_of(self.headers)

    @property
    def notification_id(self) -> str:
        """The id under which notifications lists it."""
        return notification_id_of(self.headers)


def subject_of(headers: Message) -> str:
    """An e-mail's subject, decoded."""
    return str(make_header(decode_header(headers["Subject"])))


def notification_id_of(headers: Message) -> str:
    """The id under which notifications lists an e-mail."""
    return str(headers["Message-ID"]).strip("<>").partition("@")[0]


class MailServer:
    """Where all e-mails of a stack arrive."""

    def __init__(self) -> None:
        self.emails: list[Mail] = []
        self.port = 0
        self.refused: Counter[str] = Counter()
        """How often e-mails to an address were refused."""
        self.pause = 0.0
        """Seconds that it thinks about each e-mail."""
        self.reply_to_all = ""
        """What every e-mail is answered with, if it is not empty."""
        self._by_address: dict[str, list[Mail]] = defaultdict(list)
        self._replies: dict[str, str] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[smtp.SMTP] = set()

    def to(self, *addresses: str) -> list[Mail]:
        """The e-mails to one of these addresses, as they arrived."""
        return [email for address in addresses for email in self._by_address[address]]

    def refuse(self, address: str, reply: str) -> None:
        """Answer `reply` to every e-mail to an address, from now on."""
        self._replies[address] = reply

    @contextlib.contextmanager
    def refusing(self, address: str, reply: str) -> Iterator[None]:
        """Answer `reply`, such as "451 later", to every e-mail to an address."""
        self.refuse(address, reply)
        try:
            yield
        finally:
            del self._replies[address]

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
        self._server = await loop.create_server(self._connection, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()
        self._connections.clear()
        await self._server.wait_closed()

    def _connection(self) -> smtp.SMTP:
        loop = asyncio.get_running_loop()
        connection = smtp.SMTP(self, hostname="mail-server.test", loop=loop)
        self._connections.add(connection)
        return connection

    # What aiosmtpd calls.

    async def handle_RCPT(  # noqa: N802
        self,
        _server: smtp.SMTP,
        _session: smtp.Session,
        envelope: smtp.Envelope,
        address: str,
        _options: list[Any],
    ) -> str:
        if self.reply_to_all:
            return self.reply_to_all
        if address in self._replies:
            self.refused[address] += 1
            return self._replies[address]
        envelope.rcpt_tos.append(address)
        return OK

    async def handle_DATA(  # noqa: N802
        self, _server: smtp.SMTP, _session: smtp.Session, envelope: smtp.Envelope
    ) -> str:
        if self.pause:
            await asyncio.sleep(self.pause)
        email = Mail(envelope)
        self.emails.append(email)
        for address in email.recipients:
            self._by_address[address].append(email)
        return OK
