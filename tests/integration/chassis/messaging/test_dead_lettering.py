"""Dead-lettering shares round trips, and confirms each message for itself."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import aio_pika
import pytest

from chassis.messaging.dead_letters import PUBLISH_LIMIT, DeadLetterQueue
from chassis.messaging.publisher import Publication, Publisher
from chassis.messaging.topology import DEAD
from tests.support.broker import Broker
from tests.support.fixtures import Install

QUEUE = f"orders.{DEAD}"


class CountingPublisher(Publisher):
    """The real one. It counts round trips, and can fail some."""

    def __init__(self, address: str) -> None:
        super().__init__(address, "tests")
        self.sizes: list[int] = []
        self.failures = 0

    async def publish(self, publications: Sequence[Publication]) -> list[BaseException | None]:
        self.sizes.append(len(publications))
        if self.failures:
            self.failures -= 1
            raise ConnectionError("lost")
        return await super().publish(publications)


@pytest.fixture
async def publisher(install_chorus: Install) -> AsyncIterator[CountingPublisher]:
    chorus = await install_chorus("dead_lettering", "orders")
    made = CountingPublisher(chorus.amqp_url("orders"))
    yield made
    await made.close()


@pytest.fixture
async def broker(install_chorus: Install) -> AsyncIterator[Broker]:
    made = Broker((await install_chorus("dead_lettering", "orders")).amqp_admin_url)
    await made.open()
    yield made
    await made.purge(QUEUE)
    await made.close()


def messages(count: int) -> list[aio_pika.Message]:
    return [
        aio_pika.Message(b"bad", message_id=str(number), headers={"dead_letter_error": "tests"})
        for number in range(count)
    ]


async def arrived(broker: Broker) -> list[int]:
    found = []
    while (message := await broker.take(QUEUE)) is not None:
        found.append(int(message.message_id or -1))
    return found


async def test_messages_that_wait_share_a_round_trip(
    publisher: CountingPublisher, broker: Broker
) -> None:
    queue, count = DeadLetterQueue("orders", publisher), 300
    await asyncio.gather(*(queue.put(message, "a queue") for message in messages(count)))
    assert sorted(await arrived(broker)) == [*range(count)]
    assert max(publisher.sizes) == PUBLISH_LIMIT
    assert len(publisher.sizes) <= count / PUBLISH_LIMIT + 2, "the first, and then all that waited"


async def test_a_message_alone_is_published_at_once(
    publisher: CountingPublisher, broker: Broker
) -> None:
    [message] = messages(1)
    await DeadLetterQueue("orders", publisher).put(message, "a queue")
    assert await arrived(broker) == [0]
    assert publisher.sizes == [1]


async def test_a_failed_round_trip_is_repeated_for_all_its_messages(
    publisher: CountingPublisher, broker: Broker
) -> None:
    queue, publisher.failures = DeadLetterQueue("orders", publisher), 2
    await asyncio.gather(*(queue.put(message, "a queue") for message in messages(100)))
    assert sorted(await arrived(broker)) == [*range(100)]


async def test_cancelled_consumers_keep_no_other_from_dead_lettering(
    publisher: CountingPublisher, broker: Broker
) -> None:
    """Whichever is cancelled, the one that publishes for all or one that waits."""
    queue = DeadLetterQueue("orders", publisher)
    putting = [asyncio.create_task(queue.put(m, "a queue")) for m in messages(200)]
    await asyncio.sleep(0)
    cancelled = {0, 1, 70, 199}
    for number in cancelled:
        putting[number].cancel()
    await asyncio.gather(*putting, return_exceptions=True)
    assert {n for n, task in enumerate(putting) if task.cancelled()} == cancelled
    assert {*range(200)} - cancelled <= {*await arrived(broker)}
