"""A fault of the world is not the end of a run: what disturbs a fault is said, and the fault is tried again."""

from collections import Counter

import asyncpg
import httpx
import pytest
from aio_pika.exceptions import AMQPConnectionError

from ops.audit import DatabaseUnavailableError
from tests.chaos.run import TRIES, done
from tests.chaos.schedule import Fault
from tests.chaos.world import NothingToDoError
from tools.children import ChildFailed

FAULT = Fault(1.0, "connections", "database", 2.0)


@pytest.mark.parametrize(
    "error",
    [
        NothingToDoError("it is down"),
        asyncpg.InternalClientError("cannot switch to state 15"),
        asyncpg.InterfaceError("the connection is closed"),
        asyncpg.AdminShutdownError("terminated"),
        DatabaseUnavailableError("orders"),
        AMQPConnectionError("gone"),
        httpx.ReadTimeout("late"),
        ChildFailed("ended"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_fault_that_is_disturbed_is_tried_again_and_does_not_end_the_run(
    error: Exception,
) -> None:
    tried: Counter[Fault] = Counter()
    said: list[str] = []

    async def disturbed(fault: Fault) -> None:
        tried[fault] += 1
        if tried[fault] <= 1:
            raise error

    assert await done(disturbed, FAULT, said.append, pause_seconds=0)
    assert tried[FAULT] == 2
    assert said == [f"not done, connections: database: {error!r}"]


async def test_a_fault_that_can_never_be_done_does_not_count() -> None:
    said: list[str] = []

    async def impossible(_: Fault) -> None:
        raise NothingToDoError("it is down")

    assert not await done(impossible, FAULT, said.append, pause_seconds=0)
    assert len(said) == TRIES


async def test_a_mistake_in_a_test_is_not_hidden() -> None:
    async def mistaken(_: Fault) -> None:
        raise KeyError("no such replica")

    with pytest.raises(KeyError):
        await done(mistaken, FAULT, print, pause_seconds=0)
