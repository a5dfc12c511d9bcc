"""Notifications as processes: their events, their database, and their mail server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from events.base import Event
from events.users import UserRegistered, UserState
from tests.support.broker import Broker
from tests.support.builders import an_order, payment_succeeded
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tests.support.mail import MailSink
from tests.support.processes import ServiceProcess


class Mailing:
    """The database and the broker of notifications, with an administrator's rights, and a mail server."""

    def __init__(self, installation: Installation, broker: Broker, sink: MailSink) -> None:
        self.installation = installation
        self.broker = broker
        self.sink = sink
        self.settings = {"CHORUS_SMTP_PORT": str(sink.port)}

    async def rows(self, sql: str) -> list[asyncpg.Record]:
        """The rows that a statement returns."""
        connection = await asyncpg.connect(self.installation.database_admin_url("notifications"))
        try:
            found: list[asyncpg.Record] = await connection.fetch(sql)
            return found
        finally:
            await connection.close()

    async def publish(self, count: int, users: list[UserState]) -> None:
        """Publish the registration of users, and so many paid orders of theirs."""
        events: list[Event] = [UserRegistered(user=user) for user in users]
        events += [payment_succeeded(an_order(user=users[n % len(users)])) for n in range(count)]
        await self.broker.publish(*events, as_batch=True)

    async def all_sent(self, count: int, *, within: float = 60) -> None:
        """Wait until there are so many notifications, and all are sent."""

        async def so() -> None:
            by_status = await self.rows("SELECT status, count(*) FROM notifications GROUP BY 1")
            assert dict(by_status) == {"sent": count}

        await eventually(so, within=within)

    def copies(self) -> int:
        """E-mails beyond the first with the same Message-ID."""
        ids = [e_mail.message["Message-ID"] for e_mail in self.sink.e_mails]
        return len(ids) - len(set(ids))


async def logged(process: ServiceProcess, what: str) -> bool:
    """Whether a process's log contains this text."""
    return what in process.log


@asynccontextmanager
async def mailing(install_chorus: Install, name: str, sink: MailSink) -> AsyncIterator[Mailing]:
    """An installation of notifications, with a mail server that is open until the end of the block."""
    installation = await install_chorus(name, "notifications")
    broker = Broker(installation.amqp_admin_url)
    async with AsyncExitStack() as stack:
        await broker.open()
        stack.push_async_callback(broker.close)
        await sink.open()
        stack.push_async_callback(sink.close)
        yield Mailing(installation, broker, sink)
