"""How each kind of fault is done, and undone. A fault that finds nothing to do raises NothingToDoError."""

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

import asyncpg
from aio_pika.exceptions import AMQPError

from apps.notifications.dispatcher import UNRECORDED_LIMIT
from chassis.database.errors import CONNECTION_LOST
from chassis.messaging.errors import connection_may_be_lost
from events.orders import OrderPlaced
from tests.chaos.malformed import QUEUE, malformed_message
from tests.chaos.schedule import REPLICAS, Fault
from tests.chaos.shortages import Shortages
from tests.chaos.slips import SLIPS, Slips
from tests.chaos.world import NothingToDoError, World
from tests.stories.journal import outbox_row_of
from tests.support.alarms import ALARMS
from tests.support.processes import frozen
from tests.support.standby import followed, promote, take_over
from tools.children import ChildFailed

COPIES_IN_FLIGHT: Final = 16
"""E-mails that may be sent a second time when a dispatcher's server or database fails: 8 connections, and as many
responses again that are not recorded yet."""

REACHED_SECONDS: Final = 30.0
"""How long a process that is to die at a crash point may live on before it is killed anyhow."""

OF_BROKER: Final = {
    "kill broker", "freeze broker", "alarm", "again", "malformed message", *SLIPS
}  # fmt: skip

OF_DATABASE: Final = {
    "kill database", "freeze database", "fail over database", "read only", "connections taken"
}  # fmt: skip


class Faults:
    """Does faults. Two that concern the same thing come one after the other; all others may overlap."""

    def __init__(self, world: World, say: Callable[[str], None]) -> None:
        self._world = world
        self._say = say
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._do: dict[str, Callable[[Fault], Coroutine[Any, Any, None]]] = {
            "kill service": self.kill_service,
            "freeze service": self.freeze_service,
            "crash point": self.crash_point,
            "rolling restart": self.rolling_restart,
            "kill broker": self.kill_broker,
            "freeze broker": self.freeze_broker,
            "kill database": self.kill_database,
            "freeze database": self.freeze_database,
            "fail over database": self.fail_over_database,
            "network": self.network,
            "connections": self.connections,
            "alarm": self.alarm,
            "mail": self.mail,
            "again": self.again,
            "malformed message": self.malformed_message,
        }

        self._slips = Slips(world)
        self._do |= self._slips.kinds | Shortages(world).kinds

    async def do(self, fault: Fault) -> None:
        """Do a fault and undo it again. Raises NothingToDoError."""
        if fault.target.startswith("notifications") and fault.kind not in SLIPS:
            self._world.extra_copies += UNRECORDED_LIMIT
        elif fault.kind in {"mail", "network", "connections", *OF_DATABASE}:
            self._world.extra_copies += COPIES_IN_FLIGHT
        async with self._locks[_subject(fault)]:
            await self._do[fault.kind](fault)

    # Services.

    async def kill_service(self, fault: Fault) -> None:
        process = self._world.running(fault.target)
        process.kill()

    async def freeze_service(self, fault: Fault) -> None:
        process = self._world.running(fault.target)
        async with frozen(process.child):
            await asyncio.sleep(fault.seconds)

    async def crash_point(self, fault: Fault) -> None:
        process = self._world.running(fault.target)
        async with self._in_our_hands(fault.target):
            process.kill()
            process.child.start({"CHORUS_CRASH_AT": fault.how})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REACHED_SECONDS):
                    while process.child.running:  # noqa: ASYNC110 - a process has no event
                        await asyncio.sleep(0.1)
            reached = not process.child.running
            process.kill()
            process.launch()
        if not reached:
            raise NothingToDoError(f"{fault.target} did not get to {fault.how}")

    async def rolling_restart(self, fault: Fault) -> None:
        for replica in REPLICAS:
            name = f"{fault.target} {replica}"
            async with self._locks[name], self._in_our_hands(name):
                process = self._world.replicas[name]
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(20):
                        while process.child.running:  # noqa: ASYNC110 - a process has no event
                            await asyncio.sleep(0.1)
                process.kill()
                process.launch()
            # Another fault may keep it from being ready.
            with contextlib.suppress(AssertionError, TimeoutError, ChildFailed):
                await asyncio.wait_for(process.ready(), 10)

    @contextlib.asynccontextmanager
    async def _in_our_hands(self, name: str) -> AsyncIterator[None]:
        self._world.held.add(name)
        try:
            yield
        finally:
            self._world.held.discard(name)

    # Servers.

    async def kill_broker(self, fault: Fault) -> None:
        rabbitmq = self._world.private.rabbitmq
        rabbitmq.kill()
        await asyncio.sleep(fault.seconds / 2)
        rabbitmq.launch()
        await asyncio.to_thread(rabbitmq.wait)
        if leaderless := await self._slips.leaderless_queues():
            self._say(f"without a leader, and replaced: {', '.join(leaderless)}")
            await self._slips.replace(leaderless)

    async def freeze_broker(self, fault: Fault) -> None:
        async with frozen(self._world.private.rabbitmq.process):
            await asyncio.sleep(fault.seconds)

    async def kill_database(self, fault: Fault) -> None:
        postgres = self._world.private.postgres
        postgres.kill()
        await asyncio.sleep(fault.seconds / 2)
        postgres.launch()
        await asyncio.to_thread(postgres.wait)

    async def freeze_database(self, fault: Fault) -> None:
        async with frozen(self._world.private.postgres.process):
            await asyncio.sleep(fault.seconds)

    async def fail_over_database(self, fault: Fault) -> None:
        """Its name first leads to nothing, then to a standby, then to the primary that this becomes."""
        postgres = self._world.private.postgres
        async with followed(postgres) as standby:
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(take_over, postgres, standby)
            await asyncio.sleep(fault.seconds / 2)
            await promote(postgres)

    async def network(self, fault: Fault) -> None:
        proxy = self._world.proxies[fault.target]
        if fault.how == "cut":
            proxy.cut()
        elif fault.how == "half-open":
            proxy.freeze()
            await asyncio.sleep(fault.seconds)
            proxy.cut()
            proxy.thaw()
        else:
            proxy.delay = 0.2
            await asyncio.sleep(fault.seconds)
            proxy.delay = 0.0

    async def connections(self, fault: Fault) -> None:
        if fault.target == "broker":
            await self._rabbitmqctl("close_all_connections", "chaos")
            return
        try:
            connection = await asyncpg.connect(self._world.private.postgres.url, timeout=5)
            try:
                await connection.execute(_TERMINATE)
            finally:
                await connection.close(timeout=2)
        except (asyncpg.PostgresError, *CONNECTION_LOST) as error:
            raise NothingToDoError(repr(error)) from None

    async def alarm(self, fault: Fault) -> None:
        begin, end = ALARMS[fault.target]
        await self._rabbitmqctl(*begin)
        await asyncio.sleep(fault.seconds)
        await self._rabbitmqctl(*end)

    async def _rabbitmqctl(self, *arguments: str) -> None:
        rabbitmq = self._world.private.rabbitmq
        status = await asyncio.to_thread(rabbitmq.control, *arguments)
        if status:
            raise NothingToDoError(f"rabbitmqctl {arguments[0]} ended with {status}")

    # Mail.

    async def mail(self, fault: Fault) -> None:
        mail = self._world.mail
        if fault.target == "gone":
            async with mail.gone():
                await asyncio.sleep(fault.seconds)
        elif fault.target == "slow":
            mail.pause = 0.5
            await asyncio.sleep(fault.seconds)
            mail.pause = 0.0
        else:
            mail.reply_to_all = "451 later"
            await asyncio.sleep(fault.seconds)
            mail.reply_to_all = ""

    # Messages.

    async def again(self, fault: Fault) -> None:
        dice = random.Random(fault.at)
        known = self._world.journal.events()
        if len(known) < 50:
            raise NothingToDoError("too few events have been published")
        some = [*dice.sample(known, 20), *known[-20:]]
        rows = [outbox_row_of(received) for received in some for _ in range(dice.randint(1, 6))]
        dice.shuffle(rows)
        await self._speaking(self._world.broker.publish, *rows)

    async def malformed_message(self, fault: Fault) -> None:
        dice = random.Random(fault.at)
        placed = self._world.journal.events(OrderPlaced)
        if not placed:
            raise NothingToDoError("nothing has been ordered yet")
        # Only the older half: billing has processed it, so its neighbour in a message batch is a duplicate.
        message, id = malformed_message(
            fault.target, dice.choice(placed[: len(placed) // 2 + 1]), dice
        )
        await self._speaking(self._world.broker.send, message, "", QUEUE)
        if id is not None:
            self._world.malformed[id] = time.monotonic()

    async def _speaking(self, say: Callable[..., Coroutine[Any, Any, Any]], *words: Any) -> None:
        try:
            with connection_may_be_lost():
                async with asyncio.timeout(20):
                    await self._world.fresh_broker()
                    # Bound anew: the world's broker has just been replaced.
                    await getattr(self._world.broker, say.__name__)(*words)
        except (OSError, AMQPError) as error:
            raise NothingToDoError(repr(error)) from None


def _subject(fault: Fault) -> str:
    """What may suffer only one fault at a time."""
    if fault.kind in OF_BROKER:
        return "broker"
    if fault.kind == "connections":
        return fault.target
    if fault.kind in OF_DATABASE:
        return "database"
    if fault.kind == "network":
        return f"network {fault.target}"
    if fault.kind == "rolling restart":
        return f"rolling {fault.target}"
    return "mail" if fault.kind == "mail" else fault.target


_TERMINATE: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND usename <> 'postgres' AND pid <> pg_backend_pid()
"""
