"""The connections of a simulated process to the broker: what its publisher and its inbox use."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import aio_pika

from chassis.messaging.publisher import Publisher
from tests.simulation.broker import Broker, Consumer, Handler

if TYPE_CHECKING:
    from tests.simulation.process import Process


class SimulatedPublisher(Publisher):
    """The real publisher; only its channel is ours."""

    def __init__(self, process: "Process", broker: Broker) -> None:
        super().__init__("amqp://simulated", process.name)
        self._process = process
        self._broker = broker

    async def _open(self) -> Any:
        self._process.check()
        return self

    async def close(self) -> None:
        """Nothing is kept open."""

    async def get_underlay_channel(self) -> object:
        """No channel of aiormq: what is published here has no frames, so nothing is too large for one."""
        return self

    async def get_exchange(self, name: str, *, ensure: bool) -> "Exchange":
        assert not ensure
        return Exchange(name, self._process, self._broker)


class Exchange:
    """What a publisher knows as an exchange."""

    def __init__(self, name: str, process: "Process", broker: Broker) -> None:
        self._name = name
        self._process = process
        self._broker = broker

    async def publish(self, message: aio_pika.Message, key: str, *, mandatory: bool) -> object:
        self._process.check()
        loop = self._broker.loop
        confirm: asyncio.Future[object] = loop.create_future()
        arrived = partial(self._broker.arrived, mandatory=mandatory)
        what = f"{self._process.name}: publish {key}"
        loop.outside(what, arrived, self._name, key, message, confirm)
        return await confirm


class Subscriptions:
    """What an inbox knows as FastStream's broker."""

    def __init__(self, process: "Process", broker: Broker) -> None:
        self._process = process
        self._broker = broker

    def subscriber(self, queue: Any, **_: Any) -> Callable[[Handler], Handler]:
        def subscribe(handler: Handler) -> Handler:
            self._broker.listen(queue.name, Consumer(self._process, handler))
            return handler

        return subscribe
