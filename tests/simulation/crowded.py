"""A schedule that shows if anything but its seed decides a step: processes die with locks that others wait for.

Then locks come free, statements are tried again and messages come back, many at once. If the order in which that
happens were left to chance, to the order of a set for one, the steps after it would be others each time.
"""

import random
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.machine import Played, Schedule
from tests.simulation.postgres import Postgres
from tests.simulation.process import Process
from tests.simulation.world import World

DISORDER: Final = 0.5

IN_ORDER: Final = 100
"""So many steps after each death come in the order in which they were scheduled."""

MOMENTS: Final = 8
"""The number of moments in a schedule at which processes may be killed."""

OPEN: Final = 2
"""So many transactions are open, at least, when a process dies."""

WAITING: Final = 2
"""So many statements of others wait for their locks then."""

MOST_STEPS: Final = 600
"""So long is waited for such a moment."""


@dataclass(frozen=True)
class Crowded:
    """What was played."""

    steps: tuple[str, ...]
    """What was done in each."""
    deaths: int


def crowded(postgres: Postgres, seed: int) -> Crowded:
    """Play it, audit included."""
    dice = random.Random(seed)
    kind: Any = type("Schedule", (Schedule,), {"postgres": postgres, "played": Played()})
    schedule = kind()
    try:
        schedule.begin(seed=seed, disorder=DISORDER)
        for _ in range(MOMENTS):
            for who in range(2):
                schedule.rush(who, [dice.randint(1, 500) for _ in range(3)])
                schedule.withdraw(who, dice.randint(1, 500), 2)
                schedule.cancel(who, dice.randrange(4))
            for _ in range(MOST_STEPS):
                schedule.go_on(1)
                if process := _crowded(schedule.world):
                    schedule.kill(process.name, 0)
                    _go_on_in_order(schedule.world)
                    break
    finally:
        schedule.teardown()
    return Crowded(tuple(schedule.world.loop.trace), schedule.world.deaths)


def _go_on_in_order(world: World) -> None:
    """What was scheduled first comes first: nothing hides in which order things were scheduled."""
    world.loop.disorder = 0.0
    for _ in range(IN_ORDER):
        world.loop.step()
    world.loop.disorder = DISORDER


def _crowded(world: World) -> Process | None:
    """A process that has several transactions open, for one of which others wait."""
    for process in world.processes.values():
        begun = process.pool.begun()
        if len(begun) >= OPEN and world.postgres.holds_up(process.service, begun) >= WAITING:
            return process
    return None
