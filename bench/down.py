"""What still works while a service is unavailable: billing, then notifications."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from uuid import UUID

import asyncpg
import httpx

from bench.contestants import LABELS
from bench.customers import PRICE, Customer, deposit, log_in, register
from bench.load import CREATED
from bench.plan import Bench
from bench.processes import Processes
from bench.tables import Outcome, Table

AWAY: Final = ("billing", "notifications")
REQUEST_SECONDS: Final = 15.0
LATER_SECONDS: Final = 60.0
"""The timeout, once the service is back, for what should then happen by itself."""

SOON_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.1

SETTLED: Final = "SELECT count(*) FROM orders WHERE user_id = $1 AND status <> 'pending'"
WRITTEN: Final = "SELECT count(*) FROM notifications WHERE user_id = $1"

QUESTIONS: Final = {
    "register": "a user registers",
    "login": "a user logs in",
    "deposit": "a customer deposits money",
    "accepted": "an order is accepted",
    "settled": "it is settled meanwhile",
    "settled later": "it is settled once the service is back",
    "notification later": "its notification is written once the service is back",
    "settled after a crash": "it is settled although orders was killed meanwhile",
    "notification after a crash": "its notification is written although orders was killed meanwhile",
}

TITLE: Final = "What works while a service is unavailable"

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
            failed = ", ".join(key for key, yes in answers.items() if not yes) or "nothing"
            bench.report(f"{contestant.label} without {service} fails in: {failed}")
    return Outcome(TITLE, [table(found)], data=found)


class Visitor:
    """A customer: what they can do, and the state of their order."""

    def __init__(
        self, processes: Processes, http: httpx.AsyncClient, databases: Databases, who: Customer
    ):
        self._processes = processes
        self._http = http
        self._databases = databases
        self._who = who

    async def registers(self) -> bool:
        """Register another user."""
        return bool(await register(self._http, self._processes.urls))

    async def logs_in(self) -> bool:
        """Log in again."""
        return bool(await log_in(self._http, self._processes.urls, self._who.email))

    async def deposits(self) -> bool:
        """Deposit money."""
        return (await deposit(self._http, self._processes.urls, self._who)).is_success

    async def orders(self) -> bool:
        """Place an order. Returns whether it is accepted."""
        url = f"{self._processes.urls['orders']}/order/create"
        headers = {"Authorization": f"Bearer {self._who.token}"}
        answer = await self._http.post(url, json={"totalPrice": PRICE}, headers=headers)
        return answer.status_code == CREATED

    async def has_outcome(self) -> bool:
        """Whether the order is settled."""
        return bool(await self._databases["orders"].fetchval(SETTLED, UUID(self._who.id)))

    async def has_notification(self) -> bool:
        """Whether a notification is written."""
        return bool(await self._databases["notifications"].fetchval(WRITTEN, UUID(self._who.id)))


async def _without(processes: Processes, service: str) -> Answers:
    """Two customers order while the service is stopped. After the second order, orders is killed."""
    async with (
        httpx.AsyncClient(timeout=REQUEST_SECONDS, trust_env=False) as http,
        processes.installation.databases() as databases,
    ):
        first, second = [
            Visitor(processes, http, databases, await register(http, processes.urls))
            for _ in range(2)
        ]
        for visitor in (first, second):
            if not await _eventually(visitor.deposits):
                raise TimeoutError("no deposit succeeds, although everything runs")
        await asyncio.to_thread(processes.children[service].stop)
        answers = {
            "register": await _works(first.registers),
            "login": await _works(first.logs_in),
            "deposit": await _works(first.deposits),
            "accepted": await _works(first.orders),
            "settled": await _eventually(first.has_outcome, SOON_SECONDS),
        }
        await _restart(processes, service)
        answers["settled later"] = await _eventually(first.has_outcome)
        answers["notification later"] = await _eventually(first.has_notification)
        await asyncio.to_thread(processes.children[service].stop)
        await _works(second.orders)
        await asyncio.to_thread(processes.children["orders"].kill)
        await _restart(processes, "orders")
        await _restart(processes, service)
        answers["settled after a crash"] = await _eventually(second.has_outcome)
        answers["notification after a crash"] = await _eventually(second.has_notification)
    return answers


async def _restart(processes: Processes, service: str) -> None:
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


def table(found: Mapping[str, Mapping[str, Answers]]) -> Table:
    """What fails in some contestant, by the service that is unavailable. A note lists what never fails."""
    names = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    failing = {
        (service, key): cells
        for service, by_name in found.items()
        for key in QUESTIONS
        if set(cells := [_cell(by_name.get(name), key) for name in names]) != {"yes"}
    }
    rows = [
        (f"without {service}: {QUESTIONS[key]}", *cells)
        for (service, key), cells in failing.items()
    ]
    never = "; ".join(
        what for key, what in QUESTIONS.items() if key not in {failed for _, failed in failing}
    )
    note = f"Everything else works in all of them: {never}."
    return Table(TITLE, ("", *(LABELS[name] for name in names)), rows, [note], figures=False)


def _cell(answers: Answers | None, key: str) -> str:
    return ("yes" if answers[key] else "no") if answers else "not measured"
