"""The simulation itself: it repeats itself, it finds what is broken, and it finds nothing wrong with Chorus."""

import re
import secrets
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

import pytest

from tests.simulation.apart import Apart
from tests.support.mutants import MUTANTS

pytestmark = pytest.mark.timeout(300)  # seconds, where a machine has much else to do

SCHEDULES: Final = 20
"""`make simulate` plays more."""

MUTANT_SEED: Final = 6
MUTANT_SCHEDULES: Final = 25
"""Most mutants are found within ten; the schedules are the same ones each time."""

CALLS: Final = re.compile(r"^state\.(.+)$", re.MULTILINE)
"""The rules of a schedule as it is printed."""

CROWDED_SEEDS: Final = (1, 3, 4)
"""Of schedules with three deaths or more. Two that are left to chance come in another order at about half of them."""

OBJECTS: Final = {
    "no_inbox": "9 what was published was received",
    "ack_first": "9 what was published was received",
    "unlocked_balance": "1 the ledger adds up",
    "relay_by_last_id": "8 nothing is left over",
    "no_version_guard": "7 every projection equals its owner's state",
    "unconfirmed_publish": "7 every projection equals its owner's state",
}
"""What must be among the findings about each mutant: the invariant that its mechanism is for."""


async def test_no_schedule_loses_or_doubles_anything(apart: Apart) -> None:
    """With a new random seed. A failure prints the shortest schedule that shows it."""
    seed = secrets.randbelow(1_000_000)
    # At once: to find and shrink a failure may take longer than the test may.
    print(f"seed {seed}")  # noqa: T201
    played = await apart.play(SCHEDULES, seed)
    # Else it says too little. How many die is left to chance; tests of mutants and crowds need deaths.
    assert min(played.orders, played.events, played.steps / 100) > SCHEDULES, played


@pytest.mark.parametrize("mutant", OBJECTS)
async def test_a_system_without_a_mechanism_is_found(apart: Apart, mutant: str) -> None:
    found = await apart.find(mutant, MUTANT_SEED, MUTANT_SCHEDULES)
    assert any(line.startswith(OBJECTS[mutant]) for line in found.splitlines()), found


def test_every_mutant_is_tried() -> None:
    assert OBJECTS.keys() == MUTANTS.keys()


async def test_the_same_seed_gives_the_same_steps_in_another_process(
    apart: Apart, another: Apart
) -> None:
    """Nothing but the seed decides: no address, no hash, no clock of the machine."""
    played = []
    for seed in CROWDED_SEEDS:
        here, there = await apart.crowded(seed), await another.crowded(seed)
        assert first_difference(here.steps, there.steps) is None
        assert here.deaths == there.deaths > 0
        played.append(here.steps)
    assert len(set(played)) == len(CROWDED_SEEDS)


def first_difference(here: Sequence[str], there: Sequence[str]) -> str | None:
    """Where two schedules part, with the steps that came before."""
    for number, (one, other) in enumerate(zip_longest(here, there)):
        if one != other:
            before = "\n".join(here[max(0, number - 20) : number])
            return f"step {number} after\n{before}\nhere:  {one}\nthere: {other}"
    return None


async def test_a_failing_schedule_is_shrunk(apart: Apart) -> None:
    """What is printed calls no rule that is not needed: of what a broken inbox does, the beginning shows enough."""
    at_first, shrunk = [
        await apart.find("no_inbox", MUTANT_SEED, MUTANT_SCHEDULES, rules=4, shrink=shrink)
        for shrink in (False, True)
    ]
    assert len(CALLS.findall(at_first)) > 2, at_first
    assert CALLS.findall(shrunk) == ["begin(seed=0, disorder=0.0)", "teardown()"], shrunk
    assert "reproduce_failure" in shrunk
