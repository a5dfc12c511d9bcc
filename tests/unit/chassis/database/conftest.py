"""A group committer with a use case that doubles numbers, on a fake server."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chassis.database.group_commit import GroupCommitter
from chassis.database.transaction import Transaction
from tests.support.fake_postgres import Server


class Doubling:
    """A use case that doubles numbers and can be paused. Zero is a refusal, a negative number a fault."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.batches: list[list[int]] = []
        self.resume = asyncio.Event()
        self.resume.set()

    async def __call__(self, tx: Transaction, items: Sequence[int]) -> list[int | Exception]:
        assert tx.now.utcoffset() is not None
        self.batches.append(list(items))
        await self.resume.wait()
        await tx.execute("double")
        self.server.written += items
        if any(item < 0 for item in items):
            raise ValueError(f"cannot double {items}")
        return [item * 2 if item else KeyError("refused") for item in items]


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def doubling(server: Server) -> Doubling:
    return Doubling(server)


Make = Callable[..., GroupCommitter[int, Any]]


@pytest.fixture
async def committed() -> list[int]:
    return []


@pytest.fixture
async def committer(server: Server, doubling: Doubling, committed: list[int]) -> Make:
    def make(work: Any = doubling, **commands: Any) -> GroupCommitter[int, Any]:
        return GroupCommitter(
            server,
            work,
            name="doubling",
            on_commit=[lambda tx: committed.extend([1] if tx.outbox else [])],
            **commands,
        )

    return make
