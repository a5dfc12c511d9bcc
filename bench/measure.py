"""One measurement: a load, the wait until all accepted orders are settled, the audit, and the cost.

All times come from the clock of one machine. An order is settled when the transaction that stored its outcome was
committed; likewise its notification is written, or recorded as sent. PostgreSQL records these times
(`track_commit_timestamp`), so the measurement does not depend on polling.
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
"""The interval of the poll for settled orders, after the load has ended."""

TIMEOUT_SECONDS: Final = 30.0
"""How long a measurement may make no progress before it fails."""

OPEN_ORDERS: Final = """
SELECT count(*) FILTER (WHERE status = 'pending') AS open, count(*) AS "all" FROM orders WHERE id >= $1
"""
NOTIFICATIONS: Final = """
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
"""Without mail, a notification is not changed after it was written."""

CREATED: Final = """
SELECT order_id::text, extract(epoch FROM created_at)::float8 FROM notifications WHERE order_id >= $1
"""
"""With mail, the last transaction on a notification recorded that it was sent; `created_at` is from the first one."""


@dataclass(frozen=True)
class Times:
    """When each order was settled, and its notification written and sent, in seconds since 1970, by order id."""

    settled: dict[str, float]
    written: dict[str, float]
    sent: dict[str, float]
    """Empty without mail."""

    def complete(self) -> Iterator[float]:
        """When each order was settled and its notification written."""
        return (max(at, self.written[id]) for id, at in self.settled.items())


@dataclass(frozen=True)
class Measured:
    """The result of one measurement. Processor times are milliseconds per accepted order."""

    orders: int
    accepted_rate: float
    settled_rate: float
    """Orders a second until all are settled, with their notifications written."""
    sent_rate: float
    """Orders a second until all e-mails are recorded as sent; 0 without mail."""
    accept: Percentiles
    processor: dict[str, float]
    machine: float
    """Of all processes of this machine in that time: more than the sum, if other programs were running."""
    memory: dict[str, int]
    """In bytes, right after the load."""
    idle_memory: dict[str, int]
    """In bytes, right after the start."""

    @property
    def processor_sum(self) -> float:
        """Of all processes of the measurement, the load included."""
        return sum(self.processor.values())


def id_of(moment: float) -> UUID:
    """The least UUIDv7 of a time, in seconds since 1970. The ids of orders are ordered by time."""
    return least_id(datetime.fromtimestamp(moment, UTC))


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No garbage collection in this process, which is also the load generator."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Meter:
    """Measures the processor time of processes since it was created."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = roots
        self._before = processor_seconds(roots)
        self._machine = machine_seconds()
        self._own = time.process_time()

    def read(self) -> tuple[dict[str, float], float]:
        """Seconds by process tree, and of the whole machine. "load" is this process."""
        spent = {n: s - self._before[n] for n, s in processor_seconds(self._roots).items()}
        spent["load"] = time.process_time() - self._own
        return spent, machine_seconds() - self._machine


async def measure(
    environment: Environment, processes: Processes, load: Coroutine[Any, Any, Sent]
) -> tuple[Measured, Sent, Times]:
    """Run a load against a contestant. Raises FailedAuditError, or what the load raises."""
    roots = {**environment.roots, **processes.roots}
    if not processes.contestant.settles:
        return await _measure_responses(processes, roots, load)
    async with processes.installation.databases() as databases:
        since, meter = id_of(time.time()), Meter(roots)
        with without_garbage_collection():
            sent = await load
            await settled(databases, since, mail=processes.mail)
        spent, machine = meter.read()
        times = await read_times(databases, since, mail=processes.mail)
    await check(processes, sent, since)
    held = (processes.idle, memory_bytes(roots))
    return _result(sent, times, (spent, machine), held), sent, times


async def _measure_responses(
    processes: Processes, roots: dict[str, int], load: Coroutine[Any, Any, Sent]
) -> tuple[Measured, Sent, Times]:
    """For the ceiling, which settles nothing: an order is done with its response."""
    meter = Meter(roots)
    with without_garbage_collection():
        sent = await load
    done = dict(zip(sent.order_ids, sent.answered, strict=True))
    times = Times(settled=done, written=done, sent={})
    held = (processes.idle, memory_bytes(roots))
    return _result(sent, times, meter.read(), held), sent, times


def _result(
    sent: Sent,
    times: Times,
    spent: tuple[dict[str, float], float],
    held: tuple[dict[str, int], dict[str, int]],
) -> Measured:
    count, (processor, machine), (idle, full) = sent.accepted, spent, held
    return Measured(
        orders=count,
        accepted_rate=count / (sent.ended - sent.started),
        settled_rate=count / (max(times.complete()) - sent.started),
        sent_rate=count / (max(times.sent.values()) - sent.started) if times.sent else 0.0,
        accept=Percentiles.of(sent.waits),
        processor={name: seconds / count * 1000 for name, seconds in processor.items()},
        machine=machine / count * 1000,
        memory=full,
        idle_memory=idle,
    )


async def settled(databases: Mapping[str, asyncpg.Connection], since: UUID, *, mail: bool) -> None:
    """Wait until all orders since then are settled, with a notification. Raises FailedAuditError without progress."""
    before: Any = None
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        orders = await databases["orders"].fetchrow(OPEN_ORDERS, since)
        notifications = await databases["notifications"].fetchrow(NOTIFICATIONS, since)
        if orders["open"] == 0 and orders["all"] == notifications["sent" if mail else "written"]:
            return
        if before != (before := (tuple(orders), tuple(notifications))):
            deadline = time.monotonic() + TIMEOUT_SECONDS
        if time.monotonic() > deadline:
            raise FailedAuditError(
                f"of {orders['all']} orders {orders['open']} stay pending, {notifications['written']} notifications "
                f"are written and {notifications['sent']} sent, without progress for {TIMEOUT_SECONDS:.0f} s"
            )
        await asyncio.sleep(POLL_SECONDS)


async def read_times(
    databases: Mapping[str, asyncpg.Connection], since: UUID, *, mail: bool
) -> Times:
    """When each order since then was settled, and its notification written and sent."""

    async def times(service: str, query: str) -> dict[str, float]:
        return dict(await databases[service].fetch(query, since))

    return Times(
        settled=await times("orders", SETTLED),
        written=await times("notifications", CREATED if mail else WRITTEN),
        sent=await times("notifications", WRITTEN) if mail else {},
    )
