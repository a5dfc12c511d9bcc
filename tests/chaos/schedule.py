"""Which faults come when: a function of a seed and a length, and of nothing else."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from apps import SERVICES
from chassis.messaging.topology import DEAD, JOURNAL
from ops.subscriptions import TOPOLOGY

T = TypeVar("T")

REPLICAS: Final = ("a", "b")
PROCESSES: Final = tuple(f"{service} {replica}" for service in SERVICES for replica in REPLICAS)

KINDS: Final = (
    "kill service",
    "freeze service",
    "crash point",
    "rolling restart",
    "kill broker",
    "freeze broker",
    "kill database",
    "freeze database",
    "fail over database",
    "network",
    "connections",
    "alarm",
    "mail",
    "again",
    "malformed message",
    "delete queue",
    "purge queue",
    "unbind queue",
    "policy",
    "permissions",
    "read only",
    "connections taken",
    "clock",
    "file handles",
    "memory",
)
"""The main kinds. Each comes as often as every other one."""

PER_MINUTE: Final = 12 / 30
"""How often each kind comes: 12 times in half an hour, so that 10 remain if a few find nothing to do."""

CALM_SECONDS: Final = 5.0
"""Before the first fault and after the last one there is nothing but load."""

NETWORK: Final = ("cut", "half-open", "delay")
ALARMS: Final = ("memory", "disk")
MAIL: Final = ("gone", "slow", "later")
MALFORMED: Final = ("truncated", "unknown version", "unknown fields", "a megabyte", "another type")
JUMPS: Final = ("+1", "-1", "+90", "-90", "+1h", "-1h", "+30d", "-30d")
"""By how much a process's clock is wrong for a while: in seconds, hours or days."""

POLICIES: Final = ("message-ttl", "max-length")
QUEUES: Final = tuple(
    queue.name
    for queue in TOPOLOGY.queues
    if queue.name != JOURNAL and not queue.name.endswith(f".{DEAD}")
    if queue.bindings[0][0] != "users"
)
"""Those that events pass through under load: nobody registers meanwhile."""

POINTS: Final = (
    ("relay.before_publish", SERVICES),
    ("relay.after_confirm", SERVICES),
    ("relay.before_commit", SERVICES),
    ("publisher.after_publish", SERVICES),
    ("inbox.on_receive", SERVICES[1:]),
    ("inbox.after_mark_processed", SERVICES[1:]),
    ("inbox.before_ack", SERVICES[1:]),
    ("committer.before_commit", SERVICES),
    ("committer.after_commit", SERVICES),
    ("dispatcher.before_send", ("notifications",)),
    ("dispatcher.after_accept", ("notifications",)),
    ("dispatcher.after_record", ("notifications",)),
)
"""Crash points, and the services that come past them under load."""


TARGETS: Final[Mapping[str, Sequence[str]]] = {
    "rolling restart": SERVICES,
    "network": ("broker", "database", "mail"),
    "connections": ("broker", "database"),
    "alarm": ALARMS,
    "mail": MAIL,
    "malformed message": MALFORMED,
    "delete queue": QUEUES,
    "purge queue": QUEUES,
    "unbind queue": QUEUES,
    "policy": QUEUES,
    "permissions": SERVICES,
    "read only": ("database",),
    "connections taken": SERVICES,
}
"""The targets or varieties of a kind, if they are no processes; without either a name ends with its target."""

OF_PROCESSES: Final = {"kill service", "freeze service", "clock", "file handles", "memory"}

VARIETIES: Final = {"network": NETWORK, "policy": POLICIES, "clock": JUMPS}
"""How it is done, where there are several ways."""


@dataclass(frozen=True)
class Fault:
    """One fault to come."""

    at: float
    """Seconds after the beginning."""
    kind: str
    target: str
    """A service, a replica such as "orders b", a server; or which of the kind's varieties it is."""
    seconds: float
    """How long it lasts, where it lasts."""
    how: str = ""
    """A crash point, or the variety of the kind."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.target} {self.how}".strip()


class _Dealer:
    """Deals the options of a kind in random order, and each again once all have been dealt."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._decks: dict[object, list[Any]] = {}

    def next(self, options: Sequence[T]) -> T:
        if not (deck := self._decks.setdefault(options, [])):
            deck += self._dice.sample(options, len(options))
        option: T = deck.pop()
        return option


def schedule(seed: int, minutes: float) -> list[Fault]:
    """All faults of a run, in the order of time."""
    dice = random.Random(seed)
    dealers = {kind: _Dealer(dice) for kind in KINDS}
    kinds = [kind for kind in KINDS for _ in range(max(1, math.ceil(minutes * PER_MINUTE)))]
    dice.shuffle(kinds)
    room = (minutes * 60 - 2 * CALM_SECONDS) / len(kinds)
    return [
        _fault(kind, CALM_SECONDS + (place + dice.random() * 0.9) * room, dice, dealers[kind])
        for place, kind in enumerate(kinds)
    ]


def _fault(kind: str, at: float, dice: random.Random, dealer: _Dealer) -> Fault:
    seconds = round(dice.uniform(1.0, 4.0), 1)
    how = dealer.next(VARIETIES[kind]) if kind in VARIETIES else ""
    if kind in OF_PROCESSES:
        target = dealer.next(PROCESSES)
    elif kind == "crash point":
        how, services = dealer.next(POINTS)
        target = f"{dice.choice(services)} {dice.choice(REPLICAS)}"
    else:
        target = dealer.next(TARGETS.get(kind) or (kind.rpartition(" ")[2],))
    return Fault(at, kind, target, seconds, how)
