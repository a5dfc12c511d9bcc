"""The process in which schedules are played.

Clocks, ids and mutants are put into modules that the services of other tests need as they are.
"""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from multiprocessing import get_context
from typing import Any, TypeVar
from unittest.mock import patch

import structlog
from hypothesis import Phase

from tests.simulation.broken import broken
from tests.simulation.crowded import Crowded, crowded
from tests.simulation.machine import Played, play
from tests.simulation.postgres import Postgres
from tests.support.installation import Installation
from tools.children import die_with_parent

T = TypeVar("T")

_postgres: Postgres


class Apart:
    """Another process, with connections of its own to the databases of an installation."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    async def play(self, schedules: int, seed: int) -> Played:
        """Play schedules. Raises AssertionError, with the shortest one that ends badly."""
        return await self._do(_play, schedules, seed)

    async def find(
        self, mutant: str, seed: int, schedules: int, *, rules: int = 25, shrink: bool = False
    ) -> str:
        """What is found wrong with a mutant, and with it how; empty if nothing is."""
        return await self._do(_find, mutant, seed, schedules, rules, shrink)

    async def crowded(self, seed: int) -> Crowded:
        """Play a schedule in which processes die with many transactions open."""
        return await self._do(_crowded, seed)

    async def _do(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


@asynccontextmanager
async def another_process(
    installation: Installation, *, hash_seed: str = "random"
) -> AsyncIterator[Apart]:
    """It ends with this block. `hash_seed` is Python's PYTHONHASHSEED."""
    pool = ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_begin, initargs=(installation,)
    )
    try:
        with patch.dict(os.environ, PYTHONHASHSEED=hash_seed):
            pool.submit(int)  # it starts with its first task
        yield Apart(pool)
    finally:
        for process in dict(pool._processes or {}).values():
            process.terminate()  # an interrupted test waits for no schedule
        pool.shutdown(cancel_futures=True)


def _begin(installation: Installation) -> None:
    global _postgres  # noqa: PLW0603 - one per process
    die_with_parent(signal.SIGKILL)
    be_quiet()
    _postgres = Postgres(installation)


def be_quiet() -> None:
    """What fails here fails by the thousand, and is not worth a log line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _play(schedules: int, seed: int) -> Played:
    return play(_postgres, schedules, seed=seed)


def _find(mutant: str, seed: int, schedules: int, rules: int, shrink: bool) -> str:
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]
    with broken(mutant, _postgres):
        try:
            play(_postgres, schedules, rules, seed=seed, phases=phases)
        except AssertionError as found:
            return "\n".join([str(found), *getattr(found, "__notes__", ())])
    return ""


def _crowded(seed: int) -> Crowded:
    return crowded(_postgres, seed)
