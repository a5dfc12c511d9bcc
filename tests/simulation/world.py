"""Everything that exists in one schedule: processes, broker, mail server, customers. And what is wrong at its end."""

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from fastapi import Response

from apps.notifications.dispatcher import RENEW_SECONDS
from bench.answers import Answers, History
from chassis.database.errors import CommitUnknownError
from chassis.database.group_commit import OverloadedError, UnavailableError, Work
from chassis.web.commands import IdempotentRequest
from ops.audit.auditor import RULES, evaluate
from ops.audit.databases import Database
from ops.audit.delivery import Leftovers
from ops.audit.rules import View
from tests.simulation.broker import Broker
from tests.simulation.clock import decided_by
from tests.simulation.customers import Customers
from tests.simulation.loop import SimulatedLoop
from tests.simulation.mail import Mailboxes
from tests.simulation.postgres import Postgres
from tests.simulation.process import EPOCH, Process
from tests.stories.snapshot import Snapshot, read_snapshot
from tests.stories.snapshot_rules import violations

REPLICAS: Final = {"users": 1, "billing": 2, "orders": 2, "notifications": 2}
RESTART_SECONDS: Final = 1.0

REST_SECONDS: Final = 240.0
"""How long everything may take to come to rest; an e-mail that was put off waits longer each time."""

CALM_SECONDS: Final = 1.0
"""How long it must look like rest: what nobody sees may still be at work."""

LOOK_STEPS: Final = 50
"""How often is looked whether all is at rest."""

MOST_LOOKS: Final = 4_000
"""So often is looked: work that makes work lets no time pass."""

_WAITING: Final = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM journal_outbox)"
RESTLESS: Final = {
    "users": _WAITING,
    "billing": _WAITING,
    "orders": _WAITING,
    "notifications": _WAITING
    + " + (SELECT count(*) FROM notifications WHERE status IN ('waiting', 'pending'))",
}
PAID_IN: Final = """
SELECT a.user_id, sum(CASE t.kind WHEN 'deposit' THEN amount ELSE -amount END)::bigint FROM transfers t
JOIN accounts a ON a.id = t.account_id WHERE t.kind IN ('deposit', 'withdrawal') GROUP BY 1
"""
UNRECORDED: Final = (
    "SELECT id::text FROM notifications WHERE id::text = ANY($1) AND status = 'pending'"
)

UNKNOWN: Final = (OverloadedError, UnavailableError, CommitUnknownError, asyncio.CancelledError)
"""Errors that are no outcome: the client retries."""


class World:
    """One schedule. Everything is done by `loop.step`, at the caller's pace."""

    def __init__(self, postgres: Postgres, seed: int, disorder: float) -> None:
        self.loop = SimulatedLoop(seed, disorder)
        self.postgres = postgres
        self.broker = Broker(self.loop)
        self.mailboxes = Mailboxes(self.loop)
        self.customers = Customers(self)
        self.findings: list[str] = []
        self.deaths = 0
        self.processes: dict[str, Process] = {}
        self._stood_still = 0.0
        """For how many seconds since e-mails were last in doubt for it."""
        for service, count in REPLICAS.items():
            for replica in range(1, count + 1):
                self._boot(service, f"{service} {replica}")

    def _boot(self, service: str, name: str) -> None:
        self.processes[name] = Process(self, service, name)

    # What happens.

    def kill(self, name: str) -> None:
        """A process dies where it stands, and is started again a little later."""
        process = self.processes[name]
        if process.alive:
            self._doubt(process)
            process.die()
            self.deaths += 1
            self.loop.call_later(RESTART_SECONDS, self._boot, process.service, name)

    def stand_still(self, seconds: float) -> None:
        """Time passes without requests. Dispatchers may lose their leases on what they are sending."""
        self._stood_still += seconds
        if self._stood_still >= RENEW_SECONDS:
            self._stood_still = 0.0
            for process in self.processes.values():
                self._doubt(process)
        self.loop.pass_time(seconds)

    def _doubt(self, process: Process) -> None:
        """What a dispatcher has sent but not recorded by now may be sent once more."""
        ids = [submission.id for submission in process.handed_over]
        if ids:
            notifications = self.postgres.administrators["notifications"]
            records = self.postgres.run(notifications.fetch(UNRECORDED, ids))
            unrecorded = {record[0] for record in records}
            self.mailboxes.doubt([one for one in process.handed_over if one.id in unrecorded])

    async def ask(
        self, service: str, use_case: Work[Any, Any], asked: IdempotentRequest[Any]
    ) -> Response | None:
        """One request to one of a service's processes; None if there is no answer."""
        alive = [p for p in self.processes.values() if p.service == service and p.alive]
        if not alive:
            return None
        process = self.loop.dice.choice(alive)
        answer = process.submit(use_case, asked)
        ends: list[asyncio.Future[Any]] = [answer, process.death]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            return None
        try:
            return answer.result()
        except UNKNOWN:
            return None

    # The end.

    def come_to_rest(self) -> None:
        """Go on until nothing is left to do. That it never comes to that is a finding."""
        until = self.loop.time() + REST_SECONDS
        calm_since = None
        for _ in range(MOST_LOOKS):
            for _ in range(LOOK_STEPS):
                self.loop.step()
            if not (restless := self._restless()):
                calm_since = self.loop.time() if calm_since is None else calm_since
                if self.loop.time() >= calm_since + CALM_SECONDS:
                    return
            else:
                calm_since = None
            if self.loop.time() >= until:
                break
        self.findings.append(f"it does not come to rest: {restless}")

    def _restless(self) -> dict[str, int]:
        """How much is left to do, by what it is."""
        queues = self.broker.counts()
        left = {queue: count for queue, count in queues.items() if not queue.endswith(".dead")}
        left["commands"] = len(self.customers.commands)
        left["dead processes"] = sum(not process.alive for process in self.processes.values())
        left["messages in hand"] = sum(process.at_work for process in self.processes.values())
        if not any(left.values()):
            for service, sql in RESTLESS.items():
                administrator = self.postgres.administrators[service]
                left[f"rows of {service}"] = self.postgres.run(administrator.fetchval(sql))
        return {what: count for what, count in left.items() if count}

    def wrong(self) -> list[str]:
        """What does not hold at rest."""
        self.postgres.set_clock(EPOCH + timedelta(seconds=self.loop.time()))
        audited, snapshot, paid_in = self.postgres.run(self._audit())
        deceived = self.customers.deceived(snapshot, paid_in)
        gaps = [
            f"the journal lacks {id}" for id in self.broker.published.keys() ^ self.broker.journal
        ]
        return [
            *self.loop.faults, *self.findings, *deceived, *audited, *gaps, *violations(snapshot)
        ]  # fmt: skip

    async def _audit(self) -> tuple[list[str], Snapshot, dict[UUID, int]]:
        connections = self.postgres.administrators
        databases = {service: Database(service, c) for service, c in connections.items()}
        history = History(list(self.customers.attempts))
        view = await View(databases).refreshed()
        rules = [*RULES, Answers(history), Leftovers(self._queues)]
        found = (await evaluate(view, rules)).values()
        mail = self.mailboxes.seen(self.customers.addresses)
        snapshot = await read_snapshot(databases, [*self.broker.published.values()], mail, history)
        paid_in = dict(await connections["billing"].fetch(PAID_IN))
        return [str(finding) for findings in found for finding in findings], snapshot, paid_in

    async def _queues(self) -> dict[str, int]:
        return self.broker.counts()

    def end(self) -> None:
        """Everybody dies."""
        for process in self.processes.values():
            if process.alive:
                process.die()
        self.loop.close()


@contextlib.contextmanager
def simulated(postgres: Postgres, seed: int, disorder: float) -> Iterator[World]:
    """A world of its own, on empty tables."""
    postgres.wipe()
    world = World(postgres, seed, disorder)
    with decided_by(world.loop):
        try:
            yield world
        finally:
            world.end()
