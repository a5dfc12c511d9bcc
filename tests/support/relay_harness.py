"""A publisher without a service: the test commits, and runs the relays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from chassis.database.transaction import Pool, transaction
from chassis.messaging.publisher import Publisher
from chassis.messaging.relay import Relay
from events.base import Causation, Event
from events.orders import OrderPlaced
from tests.support.broker import Broker, Tap
from tests.support.builders import an_order
from tests.support.eventually import eventually
from tests.support.installation import Installation


def placed(count: int) -> list[OrderPlaced]:
    return [OrderPlaced(order=an_order()) for _ in range(count)]


class RelayHarness:
    """The outbox and the exchange of a service that is not running: the test runs its relays."""

    def __init__(
        self, installation: Installation, pool: Pool, relays_pool: Pool, broker: Broker
    ) -> None:
        self.installation = installation
        self.pool = pool
        self.relays_pool = relays_pool
        self.broker = broker
        self.tap: Tap

    async def commits(self, *events: Event) -> None:
        """A transaction that publishes."""
        async with transaction(self.pool) as tx:
            for event in events:
                tx.publish(event, Causation("a-flow"))

    def relay(self, amqp_url: str | None = None) -> Relay:
        return Relay(
            self.relays_pool, Publisher(amqp_url or self.installation.amqp_url("orders"), "tests")
        )

    async def relays_once(self) -> int:
        """One round of a relay of its own; how many events it has taken."""
        relay = self.relay()
        try:
            return await relay.move()
        finally:
            await relay._publisher.close()

    @contextlib.asynccontextmanager
    async def relaying(self, amqp_url: str | None = None) -> AsyncIterator[Relay]:
        """A relay that runs as long as the block does."""
        relay = self.relay(amqp_url)
        task = asyncio.create_task(relay.run())
        try:
            yield relay
            assert not task.done(), "the relay has ended by itself"
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def waiting(self) -> int:
        waiting = "SELECT coalesce(sum(events), 0) FROM outbox JOIN event_log USING (id)"
        count: int = await self.pool.fetchval(waiting)
        return count

    async def everything_is_taken(self) -> bool:
        """Whether relays hold all that waits."""
        free = "SELECT count(*) FROM (SELECT FROM outbox FOR UPDATE SKIP LOCKED) AS row"
        return await self.waiting() > 0 and await self.pool.fetchval(free) == 0

    async def is_empty(self) -> None:
        async def empty() -> None:
            assert await self.waiting() == 0

        await eventually(empty)
        await self.tap.flush()

    @property
    def published(self) -> list[Event]:
        return self.tap.events
