"""Waiting for what will be true soon: with a deadline, and never longer than it takes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

DEADLINE_SECONDS: Final = 30.0
"""Far more than anything here takes; a test that needs it has found a fault."""

_LOOK_SECONDS: Final = 0.01

T = TypeVar("T")


async def eventually(
    check: Callable[[], Awaitable[T]], *, within: float = DEADLINE_SECONDS, what: str = ""
) -> T:
    """Repeat `check` until it neither raises AssertionError nor returns False, and return its result.

    After `within` seconds its last AssertionError is raised, or one that says `what`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        late = loop.time() > deadline
        try:
            result = await check()
        except AssertionError:
            if late:
                raise
        else:
            if result is not False:
                return result
            if late:
                raise AssertionError(what or f"{check.__qualname__} stayed false for {within} s")
        await asyncio.sleep(_LOOK_SECONDS)
