"""Channels by which notifications are sent.

A further one is a class here, a file of templates, an address of the recipient, and a dispatcher.
"""

from abc import abstractmethod
from typing import Protocol

from apps.notifications.models import DeliveryResult, Notification


class ServerAwayError(Exception):
    """A channel's server is unavailable, or accepts nothing now. It sent no reply about the notification."""


class Channel(Protocol):
    """Sends notifications, one at a time. Each worker of a dispatcher has its own."""

    async def ready(self) -> None:
        """Wait until the server can be sent to, however long it is away."""
        return

    @abstractmethod
    async def send(self, notification: Notification) -> DeliveryResult:
        """Send a notification that is rendered and addressed, and return the server's answer.

        Raises ServerAwayError if the server is away: await `ready`, and send it again. A notification may also be
        sent again after a crash, so its content and its id at the recipient depend on the notification alone.
        """

    async def release(self) -> None:
        """Close connections that are idle; `send` or `ready` opens them again."""
        return

    def close(self) -> None:
        """Close everything at once."""
        return
