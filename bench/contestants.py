"""Who is measured: Chorus, three other ways to build it, and a ceiling."""

import sys
from dataclasses import dataclass
from typing import Final

from apps import SERVICES


@dataclass(frozen=True)
class Contestant:
    """A way to build the order system, or a part of it."""

    name: str
    label: str
    """In a word or two, for tables."""
    what: str
    """In a sentence's worth."""
    command: tuple[str, ...]
    """Runs one of its services, with the service's name and `--port=N` behind it."""
    services: tuple[str, ...] = SERVICES
    own_topology: bool = False
    """Whether it makes its exchanges and queues by itself, and enters the broker as an administrator."""

    @property
    def settles(self) -> bool:
        """Whether an order comes to an end, with a letter."""
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
        "events for letters",
        "the same, but letters are told of by thin events",
    ),
    _baseline(
        "usual",
        "usual build",
        "events, outbox and inbox, with an ORM session and a transaction for each message",
    ),
    Contestant(
        "ceiling",
        "ceiling",
        "FastAPI with one trivial POST, in one process; it stores nothing and tells nobody",
        (sys.executable, "-m", "bench.ceiling"),
        services=("orders",),
    ),
)
LABELS: Final = {contestant.name: contestant.label for contestant in CONTESTANTS}
