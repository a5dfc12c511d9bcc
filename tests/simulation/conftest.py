"""Fixtures of this folder: databases to play on, and processes to play in."""

from collections.abc import AsyncIterator

import pytest

from tests.simulation.apart import Apart, another_process
from tests.support.fixtures import worker  # noqa: F401
from tests.support.installation import Installation, install_databases
from tests.support.servers import Servers


@pytest.fixture(scope="session")
async def installation(servers: Servers, worker: str) -> Installation:  # noqa: F811
    """The databases. One process plays on them at a time."""
    made = Installation(f"simulated_{worker}", servers)
    await install_databases(made)
    return made


@pytest.fixture(scope="session")
async def apart(installation: Installation) -> AsyncIterator[Apart]:
    """A process that plays."""
    async with another_process(installation, hash_seed="1") as made:
        yield made


@pytest.fixture
async def another(installation: Installation) -> AsyncIterator[Apart]:
    """Another one, in which sets and dictionaries have other orders, as far as they have none of their own."""
    async with another_process(installation, hash_seed="2") as made:
        yield made
