"""An endpoint of any operation; its tables must not change."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fixtures import Run
from tests.support.operations import Endpoint, Operation


@pytest.fixture
async def endpoint(request: pytest.FixtureRequest, running_service: Run) -> AsyncIterator[Endpoint]:
    operation: Operation = request.param
    service = await running_service(operation.service)
    made = Endpoint(operation, service)
    await service.is_quiet()
    before = await made.written()
    yield made
    assert await made.written() == before, "the request changed a table"
