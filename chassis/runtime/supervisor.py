"""Supervision of background tasks: if one ends by itself, such as the relay, the process ends with an error."""

import asyncio
import os
import signal
from collections.abc import Collection, Coroutine
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog

log = structlog.get_logger(__name__)


_due: Final[WeakKeyDictionary[asyncio.Task[Any], float]] = WeakKeyDictionary()
"""When a task will have made progress, in the event loop's time."""


def expect_progress(*, within: float) -> None:
    """Note that the current task makes progress, and will call this again within so many seconds."""
    if (task := asyncio.current_task()) is not None:
        _due[task] = task.get_loop().time() + within


def _is_stuck(task: asyncio.Task[Any]) -> bool:
    """Whether a task has not made the progress that it expected. One that expects none is never stuck."""
    return task in _due and task.get_loop().time() > _due[task]


class Supervisor:
    """Runs background tasks. `failed` is true once one of them has ended by itself."""

    def __init__(self) -> None:
        self.failed = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until `stop`; it is expected never to end."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.failed = True
        try:  # first, as a log line takes memory, and a lack of it may be what the task died of
            os.kill(
                os.getpid(), signal.SIGTERM
            )  # the orderly stop of the server: drain, close, exit
        finally:
            error = None if task.cancelled() else task.exception()
            log.critical("supervisor.task_died", task=task.get_name(), exc_info=error)

    async def fault(self) -> str:
        """The names of tasks that have ended or are stuck; empty if there are none."""
        idle = [task.get_name() for task in self._tasks if task.done() or _is_stuck(task)]
        return ", ".join(idle)

    async def stop(self, *, but: Collection[str] = ()) -> None:
        """Cancel all tasks except those in `but`, and wait for their end."""
        await asyncio.gather(*self.cancel(but=but), return_exceptions=True)

    def cancel(self, *, but: Collection[str] = ()) -> list[asyncio.Task[None]]:
        """The same without waiting."""
        tasks = [task for task in self._tasks if task.get_name() not in but]
        for task in tasks:
            task.remove_done_callback(self._ended)
            task.cancel()
        return tasks
