"""What the connections of a process know of the mail server: when to connect again after it has failed."""

import asyncio
import contextlib
import random
from typing import Final

import structlog
from prometheus_client import Gauge

log = structlog.get_logger(__name__)

LONGEST_PAUSE: Final = 10.0
"""Seconds between two attempts to connect to a server that is away."""

AWAY = Gauge("chorus_smtp_away", "1 while the mail server accepts no e-mails.")


class MailServer:
    """What all connections of this process know of the mail server: how often it has failed."""

    def __init__(self) -> None:
        self.connecting = asyncio.Lock()
        """Held during attempts to connect, which follow one another."""
        self.failures = 0
        """How often in a row it has refused or broken a connection."""
        self._recovered = asyncio.Event()
        AWAY.set(0)

    async def pause(self) -> None:
        """Wait before an attempt to connect: longer after each failure, until the server replies to e-mails again."""
        if self.failures:
            jitter = random.random()  # noqa: S311 - no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause(self.failures, jitter)):
                    await self._recovered.wait()

    def failed(self, failures_before: int, error: Exception) -> None:
        """Note that the server refused or broke a connection, opened after so many failures.

        Connections that break together are one failure: only one opened since the last failure counts as another.
        """
        if failures_before < self.failures:
            return
        self.failures += 1
        self._recovered.clear()
        AWAY.set(1)
        log.warning("smtp.unavailable", error=repr(error), failures=self.failures)

    def answered(self) -> None:
        """Note that the server replies to e-mails again: it is not away."""
        log.info("smtp.recovered", failures=self.failures)
        self.failures = 0
        AWAY.set(0)
        self._recovered.set()


def pause(failures: int, jitter: float) -> float:
    """Seconds before the next attempt to connect after so many failures; `jitter` from 0 to 1 takes up to half off."""
    return min(0.1 * 2.0 ** min(failures, 16), LONGEST_PAUSE) * (1 - jitter / 2)
