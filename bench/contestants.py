"""What is measured: Chorus, three other ways to build it, and a ceiling."""

import sys
from dataclasses import dataclass
from typing import Final

from apps import SERVICES


@dataclass(frozen=True)
class Contestant:
    """A way to build the order system, or a part of it."""

    name: str
    label: str
    """The name in tables."""
    what: str
    """A description for the page."""
    command: tuple[str, ...]
    """The command of a service. The name of the service and `--port=N` are appended."""
    services: tuple[str, ...] = SERVICES
    own_topology: bool = False
    """Whether it declares its own exchanges and queues, as an administrator of the broker."""

    @property
    def settles(self) -> bool:
        """Whether it settles orders, with a notification."""
        return self.services == SERVICES


def _baseline(name: str, label: str, what: str) -> Contestant:
    command = (sys.executable, "-m", f"bench.baselines.{name}")
    return Contestant(name, label, what, command, own_topology=True)


CHORUS: Final = Contestant(
    "chorus", "Chorus", "this project", (sys.executable, "-m", "ops", "serve")
)

CONTESTANTS: Final = (
    CHORUS,
    _baseline(
        "http_only", "HTTP only", "services that call each other, with a tuned client and tuned SQL"
    ),
    _baseline(
        "events_for_notifications",
        "thin events",
        "the same, with thin events for notifications",
    ),
    _baseline(
        "usual",
        "usual build",
        "events, outbox and inbox, with an ORM session and a transaction for each message",
    ),
    Contestant(
        "ceiling",
        "ceiling",
        "FastAPI with one trivial POST, in one process; it stores and publishes nothing",
        (sys.executable, "-m", "bench.ceiling"),
        services=("orders",),
    ),
)
LABELS: Final = {contestant.name: contestant.label for contestant in CONTESTANTS}
