"""What may happen in a schedule, for Hypothesis to choose from; it shrinks a schedule that ends badly.

The seed decides the interleaving, the rules everything else. A shrunk schedule calls its rules with as little as shows
what is wrong, and reads as a program.
"""

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.simulation.broker import PUBLISH_TROUBLES, PublishTrouble
from tests.simulation.mail import MAIL_TROUBLES, REFUSED, MailTrouble
from tests.simulation.postgres import Postgres
from tests.simulation.world import REPLICAS, World, simulated

PROCESSES: Final = [
    f"{service} {n}" for service, count in REPLICAS.items() for n in range(1, count + 1)
]
WHO: Final = st.integers(0, 3)
REGISTERED_STEPS: Final = 10_000
STEPS: Final = st.integers(0, 120)


class Schedule(RuleBasedStateMachine):
    """One schedule: it begins with two customers who pay in and order, and ends when everything has come to rest."""

    postgres: ClassVar[Postgres]
    played: ClassVar["Played"]
    world: World

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = ExitStack()

    @initialize(seed=st.integers(0, 2**32 - 1), disorder=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    def begin(self, seed: int, disorder: float) -> None:
        self.world = self._cleanup.enter_context(simulated(self.postgres, seed, disorder))
        for _ in range(2):
            self.world.customers.register("customer")
        for _ in range(REGISTERED_STEPS):
            if len(self.world.customers.all) == 2:
                break
            self.world.loop.step()
        for who in range(2):
            self.world.customers.deposit(who, 1000, 1)
            self.world.customers.order(who, 500, 1)

    # Customers.

    @rule(address=st.sampled_from(["customer", REFUSED]))
    def register(self, address: str) -> None:
        self.world.customers.register(address)

    @rule(who=WHO, times=st.integers(1, 3))
    def move_house(self, who: int, times: int) -> None:
        self.world.customers.move_house(who, times)

    @rule(who=WHO, amount=st.integers(1, 1000), times=st.integers(1, 3))
    def deposit(self, who: int, amount: int, times: int) -> None:
        self.world.customers.deposit(who, amount, times)

    @rule(who=WHO, amount=st.integers(1, 1000), times=st.integers(1, 3))
    def withdraw(self, who: int, amount: int, times: int) -> None:
        self.world.customers.withdraw(who, amount, times)

    @rule(who=WHO, total=st.integers(1, 1000), times=st.integers(1, 3))
    def order(self, who: int, total: int, times: int) -> None:
        self.world.customers.order(who, total, times)

    @rule(who=WHO, totals=st.lists(st.integers(1, 500), min_size=2, max_size=6))
    def rush(self, who: int, totals: list[int]) -> None:
        for total in totals:
            self.world.customers.order(who, total, 1)
            self.world.customers.deposit(who, total, 1)

    @rule(who=WHO, which=st.integers(0, 3))
    def cancel(self, who: int, which: int) -> None:
        self.world.customers.cancel(who, which)

    # Time.

    @rule(count=STEPS)
    def go_on(self, count: int) -> None:
        for _ in range(count):
            self.world.loop.step()

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 16.0]))
    def stand_still(self, seconds: float) -> None:
        self.world.stand_still(seconds)

    # Faults.

    @rule(process=st.sampled_from(PROCESSES), count=STEPS)
    def kill(self, process: str, count: int) -> None:
        self.go_on(count)
        self.world.kill(process)

    @rule(
        process=st.sampled_from(PROCESSES),
        statement=st.sampled_from(
            ["", "BEGIN", "SELECT", "INSERT", "WITH", "UPDATE", "DELETE", "COMMIT"]
        ),
        at=st.sampled_from(["before", "after"]),
    )
    def lose_connection(self, process: str, statement: str, at: str) -> None:
        self.world.processes[process].pool.losing = statement, at

    @rule(troubles=st.lists(st.sampled_from(PUBLISH_TROUBLES), min_size=1, max_size=3))
    def trouble_publishing(self, troubles: list[PublishTrouble]) -> None:
        self.world.broker.troubles.extend(troubles)

    @rule(which=st.lists(st.integers(0, 30), min_size=1, max_size=6))
    def say_again(self, which: list[int]) -> None:
        for number in which:
            self.world.broker.say_again(number)

    @rule(troubles=st.lists(st.sampled_from(MAIL_TROUBLES), min_size=1, max_size=3))
    def trouble_mailing(self, troubles: list[MailTrouble]) -> None:
        if (
            not self.world.mailboxes.troubles
        ):  # one e-mail may meet them all, and rests longer each time
            self.world.mailboxes.troubles.extend(troubles)

    # The end.

    def teardown(self) -> None:
        with self._cleanup:
            if not hasattr(self, "world"):
                return
            self.world.come_to_rest()
            wrong = self.world.wrong()
            self.played.note(self.world)
            assert not wrong, "\n".join(wrong)


@dataclass
class Played:
    """What was played."""

    seed: int | None = None
    schedules: int = 0
    steps: int = 0
    deaths: int = 0
    late: int = 0
    """Confirms that came when they had been given up."""
    orders: int = 0
    events: int = 0
    digest: str = ""
    """Of every step of every schedule."""

    def note(self, world: World) -> None:
        """Another one has ended."""
        self.schedules += 1
        self.steps += world.loop.steps
        self.deaths += world.deaths
        self.late += world.broker.late
        self.orders += len(world.customers.attempts)
        self.events += len(world.broker.published)
        steps = "\n".join([self.digest, *world.loop.trace])
        self.digest = hashlib.sha256(steps.encode()).hexdigest()[:16]


def play(postgres: Postgres, schedules: int, rules: int = 25, *, seed: int, **more: Any) -> Played:
    """Play schedules of so many rules each until one ends badly. Raises AssertionError, with the shortest one found."""
    kind = type("Schedule", (Schedule,), {"postgres": postgres, "played": (played := Played())})
    hypothesis.seed(seed)(kind)
    played.seed = seed
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=schedules,
            stateful_step_count=rules,
            deadline=None,
            database=None,
            derandomize=False,  # where CI is set, Hypothesis would play the same ones each time
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            **more,
        ),
    )
    return played
