"""An event loop on which nothing happens by itself: each step is chosen by a seed, and the clock moves by steps alone.

Inside one process callbacks run in the order in which they were scheduled, as asyncio promises. Which process goes
next, and which statement or message comes through next, is chosen.

Timers are not chosen: they are moments to which the clock goes. It goes to the next one when nothing else can happen,
and now and then before that. A timer whose moment has come takes its place in the line of its process, behind whatever
waits there; so it is late if the process is busy, and never runs if the process is dead.
"""

import asyncio
import contextlib
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, Protocol


class Owner(Protocol):
    """A process as the loop sees it: what belongs to a dead one never runs again."""

    name: str
    alive: bool
    tasks: dict["asyncio.Task[Any]", None]
    """What it is doing, in the order in which it was begun."""


HASTE: Final = 0.02
"""How often, at most, the next timer comes before what could happen first: answers take time, too."""

OWNER: Final[ContextVar[Owner | None]] = ContextVar("owner", default=None)
"""To which process the running code belongs; None is the world outside: customers, the broker, the mail server."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """One thread, no sockets. `step` is the only thing that makes anything happen."""

    _scheduled: list[asyncio.TimerHandle]
    """Timers, the next one first; BaseEventLoop keeps them."""

    def __init__(self, seed: int, disorder: float) -> None:
        super().__init__()
        self.dice = random.Random(seed)
        self.steps = 0
        self.trace: list[str] = []
        """What was done in each step."""
        self.disorder = disorder
        """How often the next step is any that may be taken, and not the one that has waited longest."""
        self._now = 0.0
        self._numbers = iter(range(1 << 62))
        self._lines: dict[Owner | None, deque[tuple[int, asyncio.Handle]]] = {}
        self._open: list[tuple[int, str, asyncio.Handle]] = []
        self.faults: list[str] = []
        """Callbacks that have failed."""
        self.set_task_factory(self._task)  # type: ignore[arg-type]
        self.set_exception_handler(self._failed)

    def time(self) -> float:
        """Seconds since the beginning of this world."""
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Let the clock run while everybody stands still."""
        self._now += seconds

    def outside(self, label: str, callback: Callable[..., object], *arguments: Any) -> None:
        """Something that happens outside of all processes, at any time from now on, in any order: I/O."""
        handle = asyncio.Handle(callback, arguments, self, Context())
        self._open.append((next(self._numbers), label, handle))

    def step(self) -> bool:
        """Do one of the things that may happen now; with nothing to do, go to the next moment. False: it is the end."""
        if self._scheduled and self.dice.random() < self.disorder * HASTE:
            self._now = max(self._now, self._scheduled[0].when())
        while not (choices := self._choices()):
            if not self._scheduled:
                return False
            self._now = max(self._now, self._scheduled[0].when())
            self._move_due()
        chosen = self.dice.choice(choices) if self.dice.random() < self.disorder else min(choices)
        number, label, handle = chosen
        self._remove(number)
        self.steps += 1
        self.trace.append(f"{self._now:.6f} {label}")
        with self._running():
            handle._run()
        return True

    def begin(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Start a task that belongs to the world outside."""
        with self._running():
            return self.create_task(work, name=name)

    def call(self, context: Context, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function at once as a process would, in its context."""
        with self._running():
            return context.run(function, *arguments)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            yield
        finally:
            asyncio._set_running_loop(before)

    def _choices(self) -> list[tuple[int, str, asyncio.Handle]]:
        self._move_due()
        found = list(self._open)
        for owner, line in self._lines.items():
            while line and line[0][1].cancelled():
                line.popleft()
            if line:
                number, handle = line[0]
                found.append(
                    (number, f"{owner.name if owner else 'world'} {_what(handle)}", handle)
                )
        return found

    def _remove(self, number: int) -> None:
        for place, (other, _, _) in enumerate(self._open):
            if other == number:
                del self._open[place]
                return
        for line in self._lines.values():
            if line and line[0][0] == number:
                line.popleft()
                return

    def _move_due(self) -> None:
        while self._scheduled and self._scheduled[0].when() <= self._now:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False  # type: ignore[attr-defined]
            self._line_up(timer)

    def _line_up(self, handle: asyncio.Handle) -> None:
        owner = handle._context.get(OWNER)  # type: ignore[attr-defined]
        if owner is None or owner.alive:
            self._lines.setdefault(owner, deque()).append((next(self._numbers), handle))

    def drop(self, owner: Owner) -> None:
        """A process has died: nothing of it is done any more."""
        self._lines.pop(owner, None)

    def _task(
        self, _: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(work, loop=self, **more)
        context = more.get("context")
        if owner := OWNER.get() if context is None else context.get(OWNER):
            owner.tasks[task] = None
            task.add_done_callback(owner.tasks.pop)
        return task

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # An exception that was never retrieved may belong to a dead process.
        if "handle" in context:
            self.faults.append(f"{context['message']}: {context.get('exception')!r}")

    # What BaseEventLoop leaves to its kinds.

    def _call_soon(
        self, callback: Callable[..., object], args: Any, context: Context | None
    ) -> asyncio.Handle:
        # An empty context is false, and one all the same.
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._line_up(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers stay where they are, and do nothing when their time comes."""


def resolve(future: "asyncio.Future[Any]", answer: object) -> bool:
    """Complete a future with a result or an exception. Returns whether it was still awaited.

    A caller that timed out or died leaves a future that is done or is never read.
    """
    if future.done():
        return False
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)
    return True


def _what(handle: asyncio.Handle) -> str:
    """A task by what it does, anything else by its function."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    what = task.get_coro() if isinstance(task, asyncio.Task) else callback
    return str(getattr(what, "__qualname__", "goes on"))
