"""The e-mail channel: a notification becomes a MIME message, which an SMTP server accepts, defers or refuses."""

import asyncio
from collections.abc import Callable
from typing import Final

from prometheus_client import Histogram

from apps.notifications import rendering
from apps.notifications.channels import Channel, ServerAwayError, mime
from apps.notifications.channels.mime import Sender
from apps.notifications.channels.smtp import ConnectionLostError, MailServer, WornConnectionError
from apps.notifications.channels.smtp_session import COMPLETED, PERMANENT, Reply
from apps.notifications.models import DeliveryResult, Notification, Outcome
from chassis.runtime.settings import Settings

SEND_SECONDS: Final = 120.0
"""How long a server may take over one e-mail. A shorter time means second copies from servers that are only slow."""

NO_SUCH_MAILBOX: Final = 553
"""RFC 5321's code for an address that is not valid; used without asking a server."""

OUTCOMES: Final[dict[int, Outcome]] = {COMPLETED: "accepted", PERMANENT: "refused"}

SECONDS = Histogram(
    "chorus_smtp_seconds",
    "Time to hand one e-mail to the mail server.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120),
)


class EmailChannel(Channel):
    """Sends e-mails over one connection to the mail server."""

    def __init__(self, sender: Sender, server: MailServer) -> None:
        self._sender = sender
        self._server = server
        self._connection = server.connection()
        self._loop = asyncio.get_running_loop()

    async def ready(self) -> None:
        """Connect. Attempts of all connections of the process follow one another, with growing pauses."""
        await self._server.ready(self._connection)

    async def send(self, notification: Notification) -> DeliveryResult:
        """Send it, with the same bytes and the same Message-ID each time.

        The server's answer, an address that is not valid, or a connection lost in the middle of the e-mail is a result.
        """
        try:
            recipient, message = message_of(self._sender, notification)
        except mime.UnsendableError as error:
            return result_of(Reply(NO_SUCH_MAILBOX, str(error)))
        if not self._connection.is_open:
            raise ServerAwayError("not connected")
        started = self._loop.time()
        try:
            reply = await self._connection.send(recipient, message, SEND_SECONDS)
        except WornConnectionError as error:
            raise ServerAwayError(repr(error)) from error  # `ready` connects without a pause
        except ServerAwayError as error:
            self._server.failed(self._connection, error)
            raise
        except ConnectionLostError as error:
            self._server.failed(self._connection, error)
            return DeliveryResult("deferred", f"the connection was lost: {error}")
        SECONDS.observe(self._loop.time() - started)
        self._server.answered()
        return result_of(reply)

    async def release(self) -> None:
        await self._connection.quit()

    def close(self) -> None:
        self._connection.close()


def email_channels(settings: Settings) -> Callable[[], EmailChannel]:
    """Makes channels that share what the process knows of the mail server."""
    sender = Sender.of(settings.mail_from)
    server = MailServer(settings, sender.address, sender.domain)
    return lambda: EmailChannel(sender, server)


def message_of(sender: Sender, notification: Notification) -> tuple[bytes, bytes]:
    """The recipient's address and the message, as SMTP carries them. Raises UnsendableError."""
    to, subject, body = notification.address, notification.subject, notification.body
    assert to is not None
    assert subject is not None
    assert body is not None
    assert notification.locale is not None
    html = rendering.html(notification.kind, notification.locale, subject, body)
    date = notification.created_at
    message = mime.compose(sender, notification.id, to, subject, body, html, date)
    return mime.envelope(to), message


def result_of(reply: Reply) -> DeliveryResult:
    """What a server's final reply means: completed is accepted, permanent is refused, anything else is deferred."""
    return DeliveryResult(OUTCOMES.get(reply.category, "deferred"), f"{reply.code} {reply.text}")
