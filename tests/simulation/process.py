"""A process of a service: the real relay, consumers, use cases and dispatcher. It can die at any step of the loop."""

import asyncio
import contextlib
import importlib
from collections.abc import Coroutine
from contextvars import Context
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from fastapi import Response

from apps.notifications.channels.email import EmailChannel, Sender
from apps.notifications.channels.mail_server import MailServer
from apps.notifications.dispatcher import Dispatcher
from chassis.database.group_commit import Work
from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Consumer
from chassis.messaging.dead_letters import DeadLetterQueue
from chassis.messaging.relay import TO_JOURNAL, TO_SUBSCRIBERS, Relay
from chassis.web.commands import Committers, IdempotentRequest
from tests.simulation.channel import SimulatedPublisher, Subscriptions
from tests.simulation.loop import OWNER
from tests.simulation.mail import SimulatedClient, Submission
from tests.simulation.pool import Pool

if TYPE_CHECKING:
    from tests.simulation.world import World

EPOCH: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""When each world begins. Far from now, so that a clock that was not replaced shows at once."""

SKEW_SECONDS: Final = 0.05
"""How far the clocks of two processes may be apart."""


MOST_AWAITS: Final = 100
"""How often a dead task may want to wait in its `finally` blocks."""


class Dead(BaseException):
    """Raised in a task of a dead process, which must have no further effect."""


class Process:
    """One life of one process, from its start to its death."""

    def __init__(self, world: "World", service: str, name: str) -> None:
        self.name = name
        self.service = service
        self.loop = world.loop
        self.alive = True
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.at_work = 0
        """How many messages it has begun to handle, acknowledged or not."""
        self.handed_over: list[Submission] = []
        """E-mails that this dispatcher has sent, less those whose outcome is known."""
        self.death: asyncio.Future[None] = self.loop.create_future()
        self.pool = Pool(self, world.postgres)
        self._world = world
        self._dispatcher: Dispatcher | None = None
        self._skew = timedelta(seconds=self.loop.dice.uniform(-1, 1) * SKEW_SECONDS / 2)
        self._committers = Committers(service, cast(Any, self.pool), [self._committed])
        self._context = Context()
        self._context.run(OWNER.set, self)
        self.loop.call(self._context.copy(), self._start)

    def _start(self) -> None:
        broker, pool = self._world.broker, cast(Any, self.pool)
        journal = Relay(pool, SimulatedPublisher(self, broker), TO_JOURNAL)
        self.relay = Relay(pool, SimulatedPublisher(self, broker), TO_SUBSCRIBERS, journal.wake)
        self.begin(self.relay.run(), "relay", for_ever=True)
        self.begin(journal.run(), "journal relay", for_ever=True)
        if self.service == "users":  # subscribes to keys only, and there are none
            return
        dead_letters = DeadLetterQueue(self.service, SimulatedPublisher(self, broker))
        for subscription in importlib.import_module(f"apps.{self.service}.consumers").SUBSCRIPTIONS:
            queues = cast(Any, Subscriptions(self, broker))
            Consumer(self.service, subscription, queues, pool, dead_letters, [self._committed])
        if self.service == "notifications":
            self.begin(self._deliver(), "dispatcher", for_ever=True)

    def _committed(self, tx: Transaction) -> None:
        self.relay.committed(tx)
        if self._dispatcher is not None:
            self._dispatcher.committed(tx)

    async def _deliver(self) -> None:
        sender = Sender.of("Chorus <orders@chorus.test>")
        server = MailServer(most_e_mails=100)

        def connect() -> EmailChannel:
            return EmailChannel(
                sender, server, cast(Any, SimulatedClient(self, self._world.mailboxes))
            )

        pool = cast(Any, self.pool)
        self._dispatcher = Dispatcher(pool, "email", connect, [self.relay.committed])
        await self._dispatcher.run()

    def now(self) -> datetime:
        """What this process and its sessions take for now."""
        return EPOCH + timedelta(seconds=self.loop.time()) + self._skew

    def check(self) -> None:
        """Raises Dead: whatever a dead process still does has no effect."""
        if not self.alive:
            raise Dead

    def begin(self, work: Coroutine[Any, Any, Any], name: str, *, for_ever: bool = False) -> None:
        """Start a task of this process that must not fail, nor end if it is for ever. The dead begin nothing."""
        if not self.alive:
            work.close()
            return
        task = self.loop.create_task(work, name=name, context=self._context.copy())
        self.at_work += not for_ever
        task.add_done_callback(partial(self._ended, for_ever=for_ever))

    def _ended(self, task: "asyncio.Task[Any]", *, for_ever: bool) -> None:
        self.at_work -= not for_ever
        if self.alive and (for_ever or task.cancelled() or task.exception() is not None):
            self._world.findings.append(f"{self.name}: {task.get_name()} has ended: {task}")

    def submit(
        self, use_case: Work[Any, Any], asked: IdempotentRequest[Any]
    ) -> "asyncio.Future[Response]":
        """What a route does once it has read a request."""
        return self._context.copy().run(self._committers[use_case].submit, asked)

    def die(self) -> None:
        """At once, wherever it stands. What it has sent may still arrive."""
        self.alive = False
        self.loop.drop(self)
        self.pool.die()
        self.loop.outside(f"{self.name} is gone", self._world.broker.gone, self)
        for task in list(self.tasks):
            self.loop.call(self._context.copy(), _bury, task)
        self.death.set_result(None)


def _bury(task: "asyncio.Task[Any]") -> None:
    """Take a task's frames apart. Its `finally` blocks run, and reach nothing: the dead cannot act.

    Raises RuntimeError if it goes on all the same.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    work = cast(Coroutine[Any, Any, Any], task.get_coro())
    for _ in range(MOST_AWAITS):
        with contextlib.suppress(BaseException):
            work.close()
            return
    raise RuntimeError(f"{task.get_name()} does not end: {work}")
