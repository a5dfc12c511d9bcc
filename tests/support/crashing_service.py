"""A service that one order kills: `python -m tests.support.crashing_service`, with the settings of billing.

It dies as if the power had gone whenever it handles an order of FATAL, and is started again each time, until it
finds nothing more to do. It is forked, so that a start takes moments.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from faststream.rabbit import RabbitBroker

from chassis.database.pool import Database
from chassis.database.transaction import Transaction
from chassis.messaging.consumer import Consumer, Subscription
from chassis.messaging.dead_letters import DeadLetterQueue
from chassis.messaging.publisher import Publisher
from chassis.runtime.settings import settings
from events.base import Envelope
from events.orders import OrderPlaced

VARIABLE: Final = "TESTS_SECONDS_EACH"
"""How long it takes over whatever it handles in one transaction; no time if it is not set."""

FATAL: Final = 666
IDLE_SECONDS: Final = 1.5


async def live_or_die(tx: Transaction, received: Sequence[Envelope[OrderPlaced]]) -> None:
    await asyncio.sleep(float(os.environ.get(VARIABLE, "0")))
    if any(e.event.order.total == FATAL for e in received):
        os.kill(os.getpid(), signal.SIGKILL)


async def live() -> None:
    url = settings().broker_url("billing")
    database = Database(settings().database_url("billing"), "crashable")
    await database.open()
    broker = RabbitBroker(url, logger=None, apply_types=False)
    consumer = Consumer(
        "billing",
        Subscription(OrderPlaced, live_or_die),
        broker,
        database.pool,
        DeadLetterQueue("billing", Publisher(url, "crashable")),
        on_commit=(),
    )
    await broker.start()
    before = -1.0
    while before != (before := consumer._processed_total._value.get()):  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(IDLE_SECONDS)
    await broker.stop()
    await database.close()


def main() -> None:
    while True:
        child = os.fork()
        if child == 0:
            asyncio.run(live())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
