"""What runs, how often and how long; and the tools of every part."""

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx
from rich.markup import escape

from bench.audited import FailedAuditError
from bench.contestants import CONTESTANTS, Contestant
from bench.customers import ANONYMOUS, Customer, make_customers
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
"""The first orders, which give a first rate."""

WARM_SECONDS: Final = 0.7
"""The duration of the warm-up."""

FAILURES: Final = (FailedAuditError, CannotRun, OSError, TimeoutError, httpx.HTTPError)


@dataclass(frozen=True)
class Plan:
    """The options of the command."""

    rounds: int
    seconds: float
    seed: int
    quick: bool
    names: Sequence[str]
    """The names of contestants."""

    @property
    def contestants(self) -> list[Contestant]:
        """The contestants that take part."""
        return [one for one in CONTESTANTS if one.name in self.names]

    @property
    def settling(self) -> list[Contestant]:
        """The contestants that take part and settle orders."""
        return [one for one in self.contestants if one.settles]


@dataclass
class Bench:
    """The tools of every part: contestants, customers, loads, findings."""

    plan: Plan
    environment: Environment
    rates: dict[str, float] = field(default_factory=dict)
    """The settled orders a second of each contestant, as far as measured."""
    part: str = ""
    """The part that is running."""
    findings: list[str] = field(default_factory=list)
    """Failed audits and other failures."""
    _customers: dict[str, list[Customer]] = field(default_factory=dict)

    @contextmanager
    def recording_failures(self, contestant: Contestant) -> Iterator[None]:
        """A failure of a contestant becomes a finding, and the others continue."""
        try:
            yield
        except FAILURES as error:
            for message in error.args or [repr(error)]:
                self.findings.append(f"{self.part}, {contestant.name}: {message}")
                self.report(f"✗ {self.findings[-1]}")

    def report(self, text: str) -> None:
        """Print the progress."""
        console.print(f"  [dim]{escape(text)}[/]")

    @asynccontextmanager
    async def running(
        self, contestant: Contestant, *, mail: bool = False, name: str = ""
    ) -> AsyncIterator[Processes]:
        """Run a contestant in this block."""
        async with running(self.environment, contestant, mail=mail, name=name) as processes:
            yield processes

    async def customers(self, processes: Processes) -> list[Customer]:
        """The customers of an installation, registered once."""
        if not processes.contestant.settles:
            return [ANONYMOUS]
        name = processes.installation.name
        if name not in self._customers:
            self._customers[name] = await make_customers(processes, CUSTOMERS)
        return self._customers[name]

    async def requests(self, processes: Processes, *, hot: bool = False) -> list[bytes]:
        """A request of each customer, shuffled by the seed; of one customer if `hot`."""
        customers = list(await self.customers(processes))
        random.Random(self.plan.seed).shuffle(customers)  # noqa: S311 - no secret
        return [customer.order() for customer in customers[: 1 if hot else None]]

    async def order(
        self, processes: Processes, orders: int, *, hot: bool = False
    ) -> tuple[Measured, Sent, Times]:
        """Measure so many orders in a closed loop over CONNECTIONS."""
        load = ClosedLoop(processes.urls["orders"], await self.requests(processes, hot=hot), orders)
        return await measure(self.environment, processes, load.run(CONNECTIONS))

    async def order_at_rate(
        self, processes: Processes, rate: float, seconds: float
    ) -> tuple[Measured, Sent, Times]:
        """Measure orders at a rate in an open loop."""
        schedule = poisson(rate, seconds, self.plan.seed)
        load = OpenLoop(processes.urls["orders"], await self.requests(processes), schedule)
        return await measure(self.environment, processes, load.run(OPEN_LOOP_CONNECTIONS))

    async def warm(self, processes: Processes) -> float:
        """Warm a contestant up. Returns its settled orders a second."""
        name = processes.contestant.name
        rate = self.rates.get(name, 0.0)
        if not rate:
            rate = (await self.order(processes, FIRST_ORDERS))[0].settled_rate
        warmed, _, _ = await self.order(processes, max(CONNECTIONS, int(rate * WARM_SECONDS)))
        self.rates[name] = max(rate, warmed.settled_rate)
        return warmed.settled_rate
