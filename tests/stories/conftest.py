"""All services as real processes, seen through their public doors.

The stories of one process share a stack, one after another. After each story everything that it stopped runs again,
and the whole stack is audited; one that an audit has found wrong is not used again.
"""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.stories.stack import Stack
from tests.support.fixtures import *  # noqa: F403
from tests.support.fixtures import Install
from tests.support.processes import Processes


class Stacks:
    """The stack that stories use now, and what is needed to make another one."""

    def __init__(self, install: Install, folder: pytest.TempPathFactory) -> None:
        self._install = install
        self._folder = folder
        self._numbers = itertools.count(1)
        self._current: Stack | None = None

    async def take(self) -> Stack:
        """A stack on which nothing has gone wrong yet."""
        if self._current is None:
            name = f"stories{next(self._numbers)}"
            folder: Path = self._folder.mktemp(name)
            stack = Stack(await self._install(name), Processes(folder))
            try:
                await stack.start()
            except BaseException:
                await stack.stop()
                raise
            self._current = stack
        return self._current

    async def drop(self) -> None:
        """End the stack, if there is one."""
        stack, self._current = self._current, None
        if stack is not None:
            await stack.stop()


@pytest.fixture(scope="session")
async def stacks(
    install_chorus: Install, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stacks]:
    made = Stacks(install_chorus, tmp_path_factory)
    yield made
    await made.drop()


@pytest.fixture
async def chorus(stacks: Stacks) -> AsyncIterator[Stack]:
    stack = await stacks.take()
    yield stack
    try:
        await stack.heal()
        findings = await stack.audit()
        assert not findings, "\n".join(findings)
    except BaseException:
        await stacks.drop()  # and its logs are shown
        raise
