"""All services as real processes, used through their HTTP APIs.

The stories of one process share a stack, one after another. After each story everything that it stopped runs again,
and the whole stack is audited; one that an audit has found wrong is not used again.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ops.audit import auditor
from tests.stories.stack import Stack
from tests.support.fixtures import *  # noqa: F403
from tests.support.fixtures import Install
from tests.support.forked import ForkedService
from tests.support.processes import Processes


class Stacks:
    """The stack that stories use now, and what is needed to make another one."""

    def __init__(
        self,
        install: Install,
        folder: pytest.TempPathFactory,
        name: str,
    ) -> None:
        self._install = install
        self._folder = folder
        self._name = name
        self._numbers = itertools.count(1)
        self._current: Stack | None = None

    async def take(self) -> Stack:
        """A stack on which nothing has gone wrong yet."""
        if self._current is None:
            name = f"{self._name}{next(self._numbers)}"
            folder: Path = self._folder.mktemp(name)
            stack = Stack(await self._install(name), Processes(folder, ForkedService))
            try:
                await stack.start()
            except BaseException:
                await stack.stop()
                raise
            self._current = stack
        return self._current

    @contextlib.asynccontextmanager
    async def audited(self) -> AsyncIterator[Stack]:
        """The stack for one story. After it everything runs again, and nothing is wrong."""
        stack = await self.take()
        yield stack
        try:
            await stack.heal()
            findings = await stack.audit()
            assert not findings, "\n".join(findings)
        except BaseException:
            await self.drop()  # and its logs are shown
            raise

    async def drop(self) -> None:
        """End the stack, if there is one."""
        stack, self._current = self._current, None
        if stack is not None:
            await stack.stop()


@pytest.fixture(scope="session")
async def stacks(
    install_chorus: Install, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stacks]:
    made = Stacks(install_chorus, tmp_path_factory, "stories")
    yield made
    await made.drop()


@pytest.fixture
async def chorus(stacks: Stacks) -> AsyncIterator[Stack]:
    async with stacks.audited() as stack:
        yield stack


@pytest.fixture(scope="session")
async def crashable_stacks(
    install_chorus: Install, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stacks]:
    made = Stacks(install_chorus, tmp_path_factory, "crashable")
    yield made
    await made.drop()


@pytest.fixture
async def crashable(crashable_stacks: Stacks) -> AsyncIterator[Stack]:
    """A stack whose services get crash points. Duplicates that a crash explains are allowed in no other story."""
    async with crashable_stacks.audited() as stack:
        yield stack


@pytest.fixture(scope="session")
async def commanded_stacks(
    install_chorus: Install, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stacks]:
    made = Stacks(install_chorus, tmp_path_factory, "commanded")
    yield made
    await made.drop()


@pytest.fixture
async def commanded(commanded_stacks: Stacks) -> AsyncIterator[Stack]:
    """A stack for operators' commands: on the others, tests publish copies of events that only their audit knows."""
    async with commanded_stacks.audited() as stack:
        yield stack


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as in flight, however young."""
    monkeypatch.setattr(auditor, "IN_FLIGHT", auditor.IN_FLIGHT * 0)
