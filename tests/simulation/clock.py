"""What the product reads of the world and would differ from run to run: clocks, ids, chance. Here the seed decides."""

import contextlib
from collections.abc import Iterator
from datetime import datetime, tzinfo
from types import SimpleNamespace
from unittest.mock import patch
from uuid import UUID

from tests.simulation.loop import OWNER, SimulatedLoop
from tests.simulation.process import EPOCH, Process


class SimulatedDatetime(datetime):
    """`datetime`, whose `now` is that of the process that asks."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        owner = OWNER.get()
        assert isinstance(owner, Process)
        return owner.now().astimezone(tz)


class Ids:
    """UUIDv7 by the simulated clock, each greater than the one before, as those of one process are."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._count = 0

    def __call__(self) -> UUID:
        self._count += 1
        milliseconds = int((EPOCH.timestamp() + self._loop.time()) * 1000)
        return UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62) | self._count << 6)


@contextlib.contextmanager
def decided_by(loop: SimulatedLoop) -> Iterator[None]:
    """Within this block the product's clocks, ids and dice are those of a simulation."""
    ids = Ids(loop)
    with contextlib.ExitStack() as stack:
        for name, value in {
            "chassis.database.transaction.datetime": SimulatedDatetime,
            "chassis.messaging.dead_letters.datetime": SimulatedDatetime,
            "chassis.database.transaction.uuid_utils": SimpleNamespace(uuid7=ids),
            "chassis.messaging.message.uuid7": ids,
            "chassis.messaging.consumer.random": loop.dice,
            "apps.notifications.dispatcher.random": loop.dice,
            "apps.notifications.channels.mail_server.random": loop.dice,
        }.items():
            stack.enter_context(patch(name, value))
        yield
