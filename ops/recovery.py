"""Gives services whose databases were restored their own facts back, from the stream `journal`."""

import importlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from chassis.database.pool import Database
from chassis.messaging.publisher import Publisher
from chassis.messaging.recovery import Recover, Remark, lost_events, recover_events
from events.base import Envelope, Event, least_id
from ops.audit.databases import Databases
from ops.journal import journal

BATCH: Final = 1_000
"""Events that are written in a transaction."""

SESSIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"


class ServiceRunsError(Exception):
    """A service that has lost events runs: what it does now may contradict them."""


Lost: TypeAlias = Mapping[str, Sequence[Envelope[Event]]]
"""By service, the events that it has published and its log does not have; about 3 KB of memory each."""


async def lost(
    address: str, publisher: Publisher, logs: Databases, services: Collection[str], since: datetime
) -> Lost:
    """What the journal has of these services since a time, and their logs do not, in the order of ids."""
    found: dict[str, dict[int, Envelope[Event]]] = {service: {} for service in services}
    least = least_id(since)
    async for events in journal(address, publisher, since):
        for service, known in found.items():
            own = [e for e in events if e.event.exchange == service and e.id >= least]
            missing = await lost_events(logs[service].rows, own) if own else []
            known |= {envelope.id.int: envelope for envelope in missing}
    return {service: [known[id] for id in sorted(known)] for service, known in found.items()}


async def require_stopped(logs: Databases, lost: Lost) -> None:
    """Raise ServiceRunsError if a process of a service that has lost something is connected to its database."""
    for service in [service for service, events in lost.items() if events]:
        if await logs[service].value(SESSIONS, f"chorus-{service}"):
            raise ServiceRunsError(f"{service} runs and has lost events: stop it, then repeat this")


async def recover(url: str, service: str, events: Sequence[Envelope[Event]]) -> list[Remark]:
    """Write lost events to a service's tables and to its log. The service must not run."""
    handler: Recover = importlib.import_module(f"apps.{service}.recovery").recover
    database = Database(url, f"recovery-of-{service}", size=1, allow_unsafe=True)
    await database.open()
    try:
        remarks: list[Remark] = []
        for first in range(0, len(events), BATCH):
            remarks += await recover_events(database.pool, handler, events[first : first + BATCH])
        return remarks
    finally:
        await database.close()
