"""One measurement: a load, the wait until everything that was accepted is settled, the audit, and what it all cost.

Times come from one machine's clock. An order is settled when the transaction that stored its outcome was committed; its
letter is written, or recorded as sent, when that transaction was: PostgreSQL remembers both
(`track_commit_timestamp`), so nobody need ask again and again, and nothing is measured but what has happened.
"""

import asyncio
import gc
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from bench.audited import FailedAuditError, check
from bench.environment import Environment
from bench.figures import Percentiles
from bench.load import Sent
from bench.processes import Processes
from bench.resources import machine_seconds, memory_bytes, processor_seconds
from events.base import least_id

POLL_SECONDS: Final = 0.02
"""How often is looked whether all is settled, once the load has ended."""

TIMEOUT_SECONDS: Final = 30.0
"""How long nothing may happen before a run is given up."""

OPEN_ORDERS: Final = """
SELECT count(*) FILTER (WHERE status = 'pending') AS open, count(*) AS "all" FROM orders WHERE id >= $1
"""
LETTERS: Final = """
SELECT count(*) AS written, count(*) FILTER (WHERE status = 'sent') AS sent FROM notifications WHERE order_id >= $1
"""
SETTLED: Final = """
SELECT id::text, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM orders
WHERE id >= $1 AND status <> 'pending'
"""
WRITTEN: Final = """
SELECT order_id::text, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 FROM notifications
WHERE order_id >= $1
"""
"""Where no mail is sent, nothing touches a letter after it was written."""

CREATED: Final = """
SELECT order_id::text, extract(epoch FROM created_at)::float8 FROM notifications WHERE order_id >= $1
"""
"""Where mail is sent, the last transaction on a letter recorded that; this was noted at the end of the first one."""


@dataclass(frozen=True)
class Times:
    """When what happened to each order, in seconds since 1970, by order."""

    settled: dict[str, float]
    written: dict[str, float]
    sent: dict[str, float]
    """Empty without mail."""

    def complete(self) -> Iterator[float]:
        """When each order was settled and its letter written."""
        return (max(at, self.written[id]) for id, at in self.settled.items())


@dataclass(frozen=True)
class Measured:
    """What came of one measurement. Processor times are milliseconds per accepted order."""

    orders: int
    accepted_rate: float
    settled_rate: float
    """Orders a second until every one is settled and its letter is written."""
    sent_rate: float
    """Orders a second until every letter is recorded as sent; 0 without mail."""
    accept: Percentiles
    processor: dict[str, float]
    machine: float
    """Spent by anybody on this machine in that time: more than the sum, if others were at work."""
    memory: dict[str, int]
    """In bytes, right after the load."""
    idle_memory: dict[str, int]
    """In bytes, right after the start."""

    @property
    def processor_sum(self) -> float:
        """Of everything that was started for the measurement, the load included."""
        return sum(self.processor.values())


def id_of(moment: float) -> UUID:
    """The least UUIDv7 of a moment, in seconds since 1970: ids of orders are in the order of time."""
    return least_id(datetime.fromtimestamp(moment, UTC))


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection in this process, which is the load generator's as well."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Meter:
    """Reads what processes spend of the processor from when it was made."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._before = processor_seconds(roots)
        self._machine = machine_seconds()
        self._own = time.process_time()

    def read(self) -> tuple[dict[str, float], float]:
        """Seconds by process, with what stands below it, and of the whole machine. "load" is this process."""
        spent = {n: s - self._before[n] for n, s in processor_seconds(self._roots).items()}
        spent["load"] = time.process_time() - self._own
        return spent, machine_seconds() - self._machine


async def measure(
    environment: Environment, processes: Processes, load: Coroutine[Any, Any, Sent]
) -> tuple[Measured, Sent, Times]:
    """Runs a load against a contestant. Raises FailedAuditError, or what the load raises."""
    roots = {**environment.roots, **processes.roots}
    if not processes.contestant.settles:
        return await _measure_answers(processes, roots, load)
    async with processes.installation.databases() as databases:
        since, meter = id_of(time.time()), Meter(roots)
        with undisturbed():
            sent = await load
            await settled(databases, since, mail=processes.mail)
        spent, machine = meter.read()
        times = await read_times(databases, since, mail=processes.mail)
    await check(processes, sent, since)
    held = (processes.idle, memory_bytes(roots))
    return _summed_up(sent, times, (spent, machine), held), sent, times


async def _measure_answers(
    processes: Processes, roots: dict[str, int], load: Coroutine[Any, Any, Sent]
) -> tuple[Measured, Sent, Times]:
    """For who has nothing to settle: an order is done when it is answered."""
    meter = Meter(roots)
    with undisturbed():
        sent = await load
    done = dict(zip(sent.order_ids, sent.answered, strict=True))
    times = Times(settled=done, written=done, sent={})
    held = (processes.idle, memory_bytes(roots))
    return _summed_up(sent, times, meter.read(), held), sent, times


def _summed_up(
    sent: Sent,
    times: Times,
    spent: tuple[dict[str, float], float],
    held: tuple[dict[str, int], dict[str, int]],
) -> Measured:
    count, (processor, machine), (idle, full) = sent.accepted, spent, held
    return Measured(
        orders=count,
        accepted_rate=count / (sent.ended - sent.begun),
        settled_rate=count / (max(times.complete()) - sent.begun),
        sent_rate=count / (max(times.sent.values()) - sent.begun) if times.sent else 0.0,
        accept=Percentiles.of(sent.waits),
        processor={name: seconds / count * 1000 for name, seconds in processor.items()},
        machine=machine / count * 1000,
        memory=full,
        idle_memory=idle,
    )


async def settled(databases: Mapping[str, asyncpg.Connection], since: UUID, *, mail: bool) -> None:
    """Wait until every order since then is settled, with a letter. Raises FailedAuditError if nothing happens."""
    before: Any = None
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        orders = await databases["orders"].fetchrow(OPEN_ORDERS, since)
        letters = await databases["notifications"].fetchrow(LETTERS, since)
        if orders["open"] == 0 and orders["all"] == letters["sent" if mail else "written"]:
            return
        if before != (before := (tuple(orders), tuple(letters))):
            deadline = time.monotonic() + TIMEOUT_SECONDS
        if time.monotonic() > deadline:
            raise FailedAuditError(
                f"of {orders['all']} orders {orders['open']} stay pending, {letters['written']} letters are written "
                f"and {letters['sent']} sent, and nothing happens any more"
            )
        await asyncio.sleep(POLL_SECONDS)


async def read_times(
    databases: Mapping[str, asyncpg.Connection], since: UUID, *, mail: bool
) -> Times:
    """When each order since then was settled, and its letter written and sent."""

    async def times(service: str, query: str) -> dict[str, float]:
        return dict(await databases[service].fetch(query, since))

    return Times(
        settled=await times("orders", SETTLED),
        written=await times("notifications", CREATED if mail else WRITTEN),
        sent=await times("notifications", WRITTEN) if mail else {},
    )
