"""What is run, how often and how long; and what every part gets to work with."""

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx
from rich.markup import escape

from bench.audited import FailedAuditError
from bench.contestants import CONTESTANTS, Contestant
from bench.customers import STRANGER, Customer, make_customers
from bench.environment import Environment
from bench.load import ClosedLoop, OpenLoop, Sent, poisson
from bench.measure import Measured, Times, measure
from bench.processes import Processes, running
from ops.console import console
from tools.children import CannotRun

CONNECTIONS: Final = 64
OPEN_LOOP_CONNECTIONS: Final = 512
CUSTOMERS: Final = 64

FIRST_ORDERS: Final = 128
"""What is ordered first, to see how fast somebody is."""

WARM_SECONDS: Final = 0.7
"""How long is ordered before anything counts."""

FAILURES: Final = (FailedAuditError, CannotRun, OSError, TimeoutError, httpx.HTTPError)


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    rounds: int
    seconds: float
    seed: int
    quick: bool
    names: Sequence[str]
    """Of contestants."""

    @property
    def contestants(self) -> list[Contestant]:
        """Who takes part."""
        return [one for one in CONTESTANTS if one.name in self.names]

    @property
    def settling(self) -> list[Contestant]:
        """Who takes part and settles orders."""
        return [one for one in self.contestants if one.settles]


@dataclass
class Bench:
    """What every part gets to work with."""

    plan: Plan
    environment: Environment
    rates: dict[str, float] = field(default_factory=dict)
    """How many orders a second each contestant settles, as far as is known."""
    part: str = ""
    """The part that is running."""
    findings: list[str] = field(default_factory=list)
    """What was not right."""
    _customers: dict[str, list[Customer]] = field(default_factory=dict)

    @contextmanager
    def recording_failures(self, contestant: Contestant) -> Iterator[None]:
        """What goes wrong with a contestant becomes a finding, and the others go on."""
        try:
            yield
        except FAILURES as error:
            for said in error.args or [repr(error)]:
                self.findings.append(f"{self.part}, {contestant.name}: {said}")
                self.report(f"✗ {self.findings[-1]}")

    def report(self, text: str) -> None:
        """Tell a person how far it is."""
        console.print(f"  [dim]{escape(text)}[/]")

    @asynccontextmanager
    async def running(
        self, contestant: Contestant, *, mail: bool = False, name: str = ""
    ) -> AsyncIterator[Processes]:
        """A contestant runs."""
        async with running(self.environment, contestant, mail=mail, name=name) as processes:
            yield processes

    async def customers(self, processes: Processes) -> list[Customer]:
        """Who orders; registered the first time."""
        if not processes.contestant.settles:
            return [STRANGER]
        name = processes.installation.name
        if name not in self._customers:
            self._customers[name] = await make_customers(processes, CUSTOMERS)
        return self._customers[name]

    async def requests(self, processes: Processes, *, hot: bool = False) -> list[bytes]:
        """An order of each customer, in an order that the seed decides; or of one only."""
        customers = list(await self.customers(processes))
        random.Random(self.plan.seed).shuffle(customers)  # noqa: S311 - no secret
        return [customer.order() for customer in customers[: 1 if hot else None]]

    async def order(
        self, processes: Processes, orders: int, *, hot: bool = False
    ) -> tuple[Measured, Sent, Times]:
        """So many orders, as fast as CONNECTIONS customers can place them who wait for their answers."""
        load = ClosedLoop(processes.urls["orders"], await self.requests(processes, hot=hot), orders)
        return await measure(self.environment, processes, load.run(CONNECTIONS))

    async def tick(
        self, processes: Processes, rate: float, seconds: float
    ) -> tuple[Measured, Sent, Times]:
        """Orders that come by the clock, so many a second, over as many connections as it takes."""
        schedule = poisson(rate, seconds, self.plan.seed)
        load = OpenLoop(processes.urls["orders"], await self.requests(processes), schedule)
        return await measure(self.environment, processes, load.run(OPEN_LOOP_CONNECTIONS))

    async def warm(self, processes: Processes) -> float:
        """Let a contestant run warm. Returns how many orders a second it settles now."""
        name = processes.contestant.name
        rate = self.rates.get(name, 0.0)
        if not rate:
            rate = (await self.order(processes, FIRST_ORDERS))[0].settled_rate
        warmed, _, _ = await self.order(processes, max(CONNECTIONS, int(rate * WARM_SECONDS)))
        self.rates[name] = max(rate, warmed.settled_rate)
        return warmed.settled_rate
