"""Turns of passwords: clients take turns, and one that floods waits behind itself."""

import asyncio

import pytest

from apps.users.passwords import Turns
from chassis.web.problems import Unavailable


class Queue:
    """Turns, and the clients in the order in which they had theirs."""

    def __init__(self, limit: int) -> None:
        self.turns = Turns(1, limit)
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def send(self, client: str, many: int = 1) -> None:
        """Requests of a client, each of which waits for its turn; the slot is taken until `refused`."""
        if not self.tasks:
            await self.turns.take("other")
        self.tasks += [asyncio.create_task(self._serve(client)) for _ in range(many)]
        await asyncio.sleep(0)

    async def _serve(self, client: str) -> None:
        await self.turns.take(client)
        self.served.append(client)
        self.turns.give_back()

    async def refused(self) -> int:
        """How many were refused, once all are done."""
        self.turns.give_back()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        return sum(isinstance(result, Unavailable) for result in results)


class TestTurns:
    async def test_a_client_that_floods_waits_behind_itself(self) -> None:
        queue = Queue(limit=100)
        await queue.send("flood", 20)
        await queue.send("ada")
        await queue.send("grace", 2)
        assert await queue.refused() == 0
        assert queue.served[:6] == ["flood", "ada", "grace", "flood", "grace", "flood"]

    async def test_without_room_the_client_with_the_most_loses_its_latest(self) -> None:
        queue = Queue(limit=11)
        await queue.send("flood", 15)
        await queue.send("ada", 3)
        assert await queue.refused() == 8
        assert queue.served.count("ada") == 3

    async def test_many_clients_do_not_displace_each_other(self) -> None:
        queue = Queue(limit=5)
        for n in range(6):
            await queue.send(f"client {n}")
        assert await queue.refused() == 2
        assert len(queue.served) == 4

    @pytest.mark.parametrize("cancelled", range(6))
    async def test_a_cancelled_turn_frees_its_place(self, cancelled: int) -> None:
        queue = Queue(limit=7)
        await queue.send("ada", 4)
        await queue.send("grace", 2)
        queue.tasks[cancelled].cancel()
        assert await queue.refused() == 0
        await asyncio.wait_for(queue.turns.take("next"), 5)
