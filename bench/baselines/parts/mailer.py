"""The mailer of all baselines: sends due notifications over persistent connections to the mail server.

It leases several notifications at a time and sends them in parallel over a few connections; the reply to each is
recorded by a statement of its own. While the mail server is unavailable, nothing is leased. A crash between sending and
recording sends an e-mail twice.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final

from apps.notifications.channels import ServerAwayError
from apps.notifications.channels.email import EmailChannel, email_channels
from apps.notifications.channels.mail_server import MailSettings
from apps.notifications.models import DeliveryResult, Notification
from bench.baselines.common import Service, written
from chassis.database.errors import is_transient
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Pool

CONNECTIONS: Final = 8
LEASE_LIMIT: Final = 64
LEASE_SECONDS: Final = 300.0
"""How long the lease lasts if the mailer crashes."""

SWEEP_SECONDS: Final = 1.0
"""The interval of the poll when this process stores no notification."""

LEASE: Final = f"""
UPDATE notifications SET due_at = now() + make_interval(secs => $2) WHERE id IN (
    SELECT id FROM notifications WHERE status = 'pending' AND due_at <= now()
    ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING {", ".join(statements(Notification).columns)}
"""  # noqa: S608 - made of names in this code

RECORD: Final = """
UPDATE notifications SET status = $2, attempts = $3, due_at = $4, answer = $5, sent_at = $6
WHERE id = $1 AND status = 'pending'
"""
RELEASE: Final = (
    "UPDATE notifications SET due_at = now() WHERE id = ANY($1::uuid[]) AND status = 'pending'"
)


@contextlib.asynccontextmanager
async def sending(service: Service) -> AsyncIterator[None]:
    """A part of notifications: it sends what is due."""
    service.supervisor.start("mailer", Mailer(service).run())
    yield


class Mailer:
    """Sends due notifications."""

    def __init__(self, service: Service) -> None:
        self._pool: Pool = service.database.pool
        connect = email_channels(MailSettings())
        self._channels = [connect() for _ in range(CONNECTIONS)]

    async def run(self) -> None:
        """Send until cancelled. Retries while the database or the mail server is unavailable."""
        try:
            while True:
                try:
                    sent = await self._send_due()
                except Exception as error:
                    if not is_transient(error):
                        raise
                    sent = 0
                if sent < LEASE_LIMIT:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SWEEP_SECONDS):
                            await written.wait()
                    written.clear()
        finally:
            for channel in self._channels:
                channel.close()

    async def _send_due(self) -> int:
        # Waits for the mail server before anything is leased.
        await self._channels[0].ready()
        records = await self._pool.fetch(LEASE, LEASE_LIMIT, LEASE_SECONDS)
        leased = [from_record(Notification, record) for record in records]
        shares = [leased[n::CONNECTIONS] for n in range(min(CONNECTIONS, len(leased)))]
        sending = map(self._send, self._channels, shares)
        for error in await asyncio.gather(*sending, return_exceptions=True):
            if error is not None:
                raise error
        return len(leased)

    async def _send(self, channel: EmailChannel, share: list[Notification]) -> None:
        try:
            while share:
                try:
                    result = await channel.send(share[0])
                except ServerAwayError:
                    await channel.ready()
                    continue
                await self._record(share[0], result)
                del share[0]
        finally:
            if share:
                await self._pool.execute(RELEASE, [letter.id for letter in share])

    async def _record(self, letter: Notification, result: DeliveryResult) -> None:
        jitter = random.random()  # noqa: S311 - no secret
        letter.record(result, datetime.now(UTC), jitter)
        changes = [letter.status, letter.attempts, letter.due_at, letter.answer, letter.sent_at]
        await self._pool.execute(RECORD, letter.id, *changes)
