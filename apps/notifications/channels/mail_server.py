"""The mail server: its settings, and when the connections of a process connect again after it has failed."""

import asyncio
import contextlib
import random
from typing import Final, Literal

import structlog
from prometheus_client import Gauge
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from apps.notifications.channels.replies import without_addresses

log = structlog.get_logger(__name__)

LONGEST_PAUSE: Final = 10.0
"""Seconds between two attempts to connect to a server that is away."""

AWAY = Gauge("chorus_smtp_unavailable", "1 while the mail server accepts no e-mails.")


class MailSettings(BaseSettings):
    """The settings of the e-mail channel."""

    model_config = SettingsConfigDict(env_prefix="CHORUS_", extra="ignore")

    smtp_host: str = Field("127.0.0.1", description="The mail server.")
    smtp_port: int = Field(1025, description="Its port.")
    smtp_username: str | None = Field(
        None, description="Login at the mail server, if it requires one."
    )
    smtp_password: SecretStr | None = Field(None, description="The password of that login.")
    smtp_tls: Literal["none", "starttls", "tls"] = Field(
        "none",
        description="How the connection to the mail server is encrypted: `none`, `starttls` or `tls`.",
    )
    smtp_ca: str | None = Field(
        None,
        description="A file with the CAs that the mail server's certificate is checked with; by default the system's.",
    )
    smtp_e_mails_per_connection: int = Field(
        100, ge=1, description="E-mails after which a connection to the mail server is renewed."
    )
    mail_from: str = Field("Chorus <orders@chorus.test>", description="The sender of every e-mail.")


class MailServer:
    """What all connections of this process know of the mail server: how often it has failed."""

    def __init__(self, most_e_mails: int) -> None:
        self.most_e_mails = most_e_mails
        """E-mails that a connection carries."""
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
        reason = without_addresses(repr(error))
        log.warning("smtp.unavailable", error=reason, failures=self.failures)

    def answered(self) -> None:
        """Note that the server replies to e-mails again: it is not away."""
        log.info("smtp.recovered", failures=self.failures)
        self.failures = 0
        AWAY.set(0)
        self._recovered.set()


def pause(failures: int, jitter: float) -> float:
    """Seconds before the next attempt to connect after so many failures; `jitter` from 0 to 1 takes up to half off."""
    return min(0.1 * 2.0 ** min(failures, 16), LONGEST_PAUSE) * (1 - jitter / 2)
