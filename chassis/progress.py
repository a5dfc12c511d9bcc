"""Progress of background tasks: each says when it will have finished its next step, so that a stuck one is noticed."""

import asyncio
from typing import Any, Final
from weakref import WeakKeyDictionary

_due: Final[WeakKeyDictionary[asyncio.Task[Any], float]] = WeakKeyDictionary()
"""By task, in the event loop's time."""


def expect_progress(*, within: float) -> None:
    """Note that the current task makes progress, and will call this again within so many seconds."""
    if (task := asyncio.current_task()) is not None:
        _due[task] = task.get_loop().time() + within


def is_stuck(task: asyncio.Task[Any]) -> bool:
    """Whether a task has not made the progress that it expected. One that expects none is never stuck."""
    return task in _due and task.get_loop().time() > _due[task]
