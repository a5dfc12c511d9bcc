"""The load: orders in a closed loop (each customer waits for the response), or in an open loop (at a fixed rate).

Both count all requests and responses. A lost connection reconnects by itself; its request counts as unanswered.
"""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.client import Connection, connect

AGAIN_SECONDS: Final = 0.02
"""The delay before a connection is reopened, or used again after a refusal."""

CREATED: Final = 201
LAST_RESPONSE_SECONDS: Final = 60.0
"""The timeout for the last responses of an open loop."""

_ORDER_ID: Final = b'"orderId":"'
_ID_LENGTH: Final = 36


@dataclass
class Sent:
    """The result of a load. Times are seconds since 1970, comparable with those in the databases."""

    started: float = 0.0
    ended: float = 0.0
    """When the last response arrived."""
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    order_ids: list[str] = field(default_factory=list)
    """The ids of accepted orders, in the order of the responses."""
    due: list[float] = field(default_factory=list)
    """When each accepted order was due; in a closed loop, when it was sent."""
    answered: list[float] = field(default_factory=list)
    """When the response to each accepted order arrived."""

    @property
    def accepted(self) -> int:
        """The number of responses with 201."""
        return self.statuses[CREATED]

    @property
    def waits(self) -> list[float]:
        """The latency of each accepted order."""
        return [end - begin for begin, end in zip(self.due, self.answered, strict=True)]


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """The times of a Poisson process with `rate` orders a second, as ascending offsets; at least one."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    found = [dice.expovariate(rate)]
    while (at := found[-1] + dice.expovariate(rate)) < seconds:
        found.append(at)
    return found


def order_id_in(body: bytes) -> str:
    """The order id in a response, without parsing the rest; empty if there is none."""
    place = body.find(_ORDER_ID)
    if place < 0:
        return ""
    begin = place + len(_ORDER_ID)
    return body[begin : begin + _ID_LENGTH].decode()


class Load(ABC):
    """Connections to one service, and the result of the load."""

    def __init__(self, url: str, requests: Sequence[bytes]) -> None:
        self.sent = Sent()
        self._url = url
        self._requests = requests
        self._connections: dict[int, Connection] = {}
        self._done = asyncio.Event()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, connections: int) -> None:
        """Open the connections. Raises OSError."""
        for place in range(connections):
            self._connections[place] = await connect(self._url, place, self._note, self._lost)

    def close(self) -> None:
        """Close all connections."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for connection in self._connections.values():
            connection.close()

    def _send(self, connection: Connection, due: float) -> None:
        connection.due = due
        connection.send(self._requests[connection.place % len(self._requests)])

    def _note(self, connection: Connection, status: int, body: bytes) -> None:
        sent = self.sent
        sent.statuses[status] += 1
        if status == CREATED:
            sent.ended = time.time()
            sent.order_ids.append(order_id_in(body))
            sent.due.append(connection.due)
            sent.answered.append(sent.ended)
            self._free(connection)
        else:
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._reuse, connection)

    def _reuse(self, connection: Connection) -> None:
        if connection.is_open:  # else it was replaced
            self._free(connection)

    def _lost(self, connection: Connection) -> None:
        if connection.waiting:
            self.sent.unanswered += 1
        if not self._closing:
            task = asyncio.create_task(self._reconnect(connection.place))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reconnect(self, place: int) -> None:
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            try:
                connection = await connect(self._url, place, self._note, self._lost)
            except OSError:
                continue
            self._connections[place] = connection
            self._free(connection)
            return

    @abstractmethod
    def _free(self, connection: Connection) -> None:
        """Called when a connection has no request in flight any more."""


class ClosedLoop(Load):
    """Each connection sends its next order after the response, until `orders` are sent or it is stopped."""

    def __init__(self, url: str, requests: Sequence[bytes], orders: int) -> None:
        super().__init__(url, requests)
        self._left = orders
        self._finished: set[int] = set()

    async def run(self, connections: int) -> Sent:
        """Send all orders, and wait for all responses. Raises OSError."""
        await self.open(connections)
        self.sent.started = time.time()
        for connection in list(self._connections.values()):
            self._free(connection)
        try:
            await self._done.wait()
        finally:
            self.close()
        return self.sent

    def stop(self) -> None:
        """Send nothing more."""
        self._left = 0

    def _free(self, connection: Connection) -> None:
        if self._left > 0:
            self._left -= 1
            self._send(connection, time.time())
            return
        self._finished.add(connection.place)
        if len(self._finished) == len(self._connections):
            self._done.set()


class OpenLoop(Load):
    """Sends orders at the times of a schedule, independent of the responses.

    An order without a free connection waits for one. That wait counts, since every latency counts from when the order
    was due.
    """

    def __init__(self, url: str, requests: Sequence[bytes], schedule: Sequence[float]) -> None:
        super().__init__(url, requests)
        self._schedule = deque(schedule)
        self._seconds = schedule[-1]
        self._late: deque[float] = deque()
        self._idle: deque[Connection] = deque()
        self._open = len(schedule)

    async def run(self, connections: int) -> Sent:
        """Send all orders when they are due, and wait for all responses. Raises OSError, or TimeoutError."""
        await self.open(connections)
        self._idle.extend(self._connections.values())
        self.sent.started = time.time()
        self._tick()
        try:
            async with asyncio.timeout(self._seconds + LAST_RESPONSE_SECONDS):
                await self._done.wait()
        finally:
            self.close()
        return self.sent

    def _tick(self) -> None:
        now = time.time() - self.sent.started
        while self._schedule and self._schedule[0] <= now:
            self._late.append(self._schedule.popleft())
        while self._late and self._idle:
            self._send(self._idle.popleft(), self.sent.started + self._late.popleft())
        if self._schedule:
            asyncio.get_running_loop().call_later(self._schedule[0] - now, self._tick)

    def _free(self, connection: Connection) -> None:
        if self._late:
            self._send(connection, self.sent.started + self._late.popleft())
        else:
            self._idle.append(connection)

    def _note(self, connection: Connection, status: int, body: bytes) -> None:
        super()._note(connection, status, body)
        self._settle_one()

    def _lost(self, connection: Connection) -> None:
        if connection.waiting:
            self._settle_one()
        elif connection in self._idle:
            self._idle.remove(connection)
        super()._lost(connection)

    def _settle_one(self) -> None:
        self._open -= 1
        if self._open <= 0:
            self._done.set()
