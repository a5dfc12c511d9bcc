"""What still works while a service is away: billing, then notifications; of each contestant, yes or no."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from uuid import UUID

import asyncpg
import httpx

from bench.contestants import LABELS
from bench.customers import PRICE, Customer, deposit, register, sign_in
from bench.load import CREATED
from bench.plan import Bench
from bench.processes import Processes
from bench.tables import Outcome, Table

AWAY: Final = ("billing", "notifications")
REQUEST_SECONDS: Final = 15.0
LATER_SECONDS: Final = 60.0
"""How long is waited, once the service is back, for what should then happen by itself."""

SOON_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.1

SETTLED: Final = "SELECT count(*) FROM orders WHERE user_id = $1 AND status <> 'pending'"
WRITTEN: Final = "SELECT count(*) FROM notifications WHERE user_id = $1"

QUESTIONS: Final = {
    "register": "somebody registers",
    "login": "he signs in",
    "deposit": "a customer pays in",
    "accepted": "an order is accepted",
    "settled": "it is settled while the service is away",
    "settled later": "it is settled by itself, once the service is back",
    "letter later": "its letter is written by itself, once the service is back",
    "settled after a crash": "settled by itself, though orders was killed meanwhile",
    "letter after a crash": "letter by itself, though orders was killed meanwhile",
}

Answers = dict[str, bool]
Check = Callable[[], Awaitable[bool]]
Databases = Mapping[str, asyncpg.Connection]


async def down(bench: Bench) -> Outcome:
    """The part."""
    found: dict[str, dict[str, Answers]] = {service: {} for service in AWAY}
    for contestant in bench.plan.settling:
        for service in AWAY:
            with bench.recording_failures(contestant):
                async with bench.running(contestant) as processes:
                    found[service][contestant.name] = await _without(processes, service)
            answers = found[service].get(contestant.name, {})
            lacks = ", ".join(key for key, yes in answers.items() if not yes) or "nothing"
            bench.report(f"{contestant.label} without {service} lacks: {lacks}")
    tables = [_table(service, answers) for service, answers in found.items()]
    return Outcome("What works while a service is away", tables, data=found)


class Visitor:
    """A customer, and what he can do, and what becomes of his order."""

    def __init__(
        self, processes: Processes, http: httpx.AsyncClient, databases: Databases, who: Customer
    ):
        self._processes = processes
        self._http = http
        self._databases = databases
        self._who = who

    async def registers(self) -> bool:
        """Somebody else registers."""
        return bool(await register(self._http, self._processes.urls))

    async def signs_in(self) -> bool:
        """He signs in again."""
        return bool(await sign_in(self._http, self._processes.urls, self._who.email))

    async def pays_in(self) -> bool:
        """He puts money on his account."""
        return (await deposit(self._http, self._processes.urls, self._who)).is_success

    async def orders(self) -> bool:
        """His order is accepted."""
        url = f"{self._processes.urls['orders']}/order/create"
        headers = {"Authorization": f"Bearer {self._who.token}"}
        answer = await self._http.post(url, json={"totalPrice": PRICE}, headers=headers)
        return answer.status_code == CREATED

    async def has_outcome(self) -> bool:
        """His order is settled."""
        return bool(await self._databases["orders"].fetchval(SETTLED, UUID(self._who.id)))

    async def has_letter(self) -> bool:
        """A letter to him is written."""
        return bool(await self._databases["notifications"].fetchval(WRITTEN, UUID(self._who.id)))


async def _without(processes: Processes, service: str) -> Answers:
    """Two customers order while the service is away; orders is killed after the second one's."""
    async with (
        httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False) as http,
        processes.installation.databases() as databases,
    ):
        first, second = [
            Visitor(processes, http, databases, await register(http, processes.urls))
            for _ in range(2)
        ]
        for visitor in (first, second):
            if not await _eventually(visitor.pays_in):
                raise TimeoutError("nobody can pay in, though everything runs")
        await asyncio.to_thread(processes.children[service].stop)
        answers = {
            "register": await _works(first.registers),
            "login": await _works(first.signs_in),
            "deposit": await _works(first.pays_in),
            "accepted": await _works(first.orders),
            "settled": await _eventually(first.has_outcome, SOON_SECONDS),
        }
        await _back(processes, service)
        answers["settled later"] = await _eventually(first.has_outcome)
        answers["letter later"] = await _eventually(first.has_letter)
        await asyncio.to_thread(processes.children[service].stop)
        await _works(second.orders)
        await asyncio.to_thread(processes.children["orders"].kill)
        await _back(processes, "orders")
        await _back(processes, service)
        answers["settled after a crash"] = await _eventually(second.has_outcome)
        answers["letter after a crash"] = await _eventually(second.has_letter)
    return answers


async def _back(processes: Processes, service: str) -> None:
    processes.children[service].start()
    await processes.ready(service)


async def _works(check: Check) -> bool:
    try:
        return await check()
    except (httpx.HTTPError, TimeoutError):
        return False


async def _eventually(check: Check, within: float = LATER_SECONDS) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if await _works(check):
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


def _table(service: str, answers: Mapping[str, Answers]) -> Table:
    rows = [
        (what, *("yes" if found[key] else "no" for found in answers.values()))
        for key, what in QUESTIONS.items()
    ]
    title = f"With {service} away: what works"
    return Table(title, ("", *(LABELS[name] for name in answers)), rows, figures=False)
