"""A dead letter stays in its queue, regardless of how often it is read and requeued."""

import aio_pika

from chassis.messaging.topology import DEAD
from tests.support.broker import Broker
from tests.support.fixtures import Install

MORE_THAN_A_BROKER_ALLOWS_BY_ITSELF = 25


async def test_a_dead_letter_stays_however_often_it_is_read(install_chorus: Install) -> None:
    broker = Broker((await install_chorus("requeues", "billing")).amqp_admin_url)
    await broker.open()
    await broker.send(aio_pika.Message(b"{}", message_id="the-one"), DEAD, "billing")
    queue = await broker.channel.get_queue(f"billing.{DEAD}", ensure=False)

    for _ in range(MORE_THAN_A_BROKER_ALLOWS_BY_ITSELF):
        message = await queue.get()
        assert message is not None
        assert message.message_id == "the-one"
        await message.reject(requeue=True)  # what "Get messages" of the management page does
    await broker.close()
