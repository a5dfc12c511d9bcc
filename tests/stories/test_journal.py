"""The stream `journal` does not answer: orders are settled meanwhile, and afterwards it holds every event."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import pytest

from apps import SERVICES
from chassis.messaging.topology import JOURNAL
from tests.stories.event_logs import logged
from tests.stories.stack import Stack
from tests.support.eventually import eventually
from tests.support.forked import ForkedService
from tests.support.installation import install
from tests.support.processes import Processes
from tests.support.servers import Servers
from tools.servers import PrivateRabbitMQ

VHOST: Final = "journal"
SUSPENDED: Final = {
    "coordinator": "whereis(rabbit_stream_coordinator)",
    "writer": "amqqueue:get_pid(element(2, rabbit_amqqueue:lookup(rabbit_misc:r("
    f'<<"{VHOST}">>, queue, <<"{JOURNAL}">>))))',
}
"""Processes of RabbitMQ, as Erlang expressions: all streams need the first, the journal the second."""


@pytest.fixture(scope="module")
async def chorus(
    own_broker: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    stack = Stack(
        await install(own_broker, VHOST), Processes(tmp_path_factory.mktemp(VHOST), ForkedService)
    )
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


@contextlib.asynccontextmanager
async def suspended(rabbitmq: PrivateRabbitMQ, process: str) -> AsyncIterator[None]:
    async def control(what: str) -> None:
        code = f"sys:{what}({SUSPENDED[process]})."
        assert await asyncio.to_thread(rabbitmq.control, "eval", code) == 0, code

    await control("suspend")
    try:
        yield
    finally:
        await control("resume")


async def everything_is_published(chorus: Stack) -> None:
    for service in SERVICES:
        assert await chorus.value(service, "SELECT count(*) FROM outbox") == 0, service


@pytest.mark.parametrize("process", SUSPENDED)
async def test_orders_are_settled_while_the_journal_does_not_answer(
    chorus: Stack, rabbitmq: PrivateRabbitMQ, process: str
) -> None:
    ada = await chorus.customer(deposit="100.00")
    await chorus.is_quiet()
    async with suspended(rabbitmq, process):
        for service in SERVICES:  # a channel that has published to the stream needs no coordinator
            await chorus[service].stop()
            await chorus[service].start()
        for order in [await ada.order("1.00") for _ in range(5)]:
            assert (await ada.settled(order))["status"] == "paid"
        await eventually(partial(everything_is_published, chorus))
    findings = await chorus.audit()
    assert not findings, "\n".join(findings)
    assert {event.id for event in chorus.journal.events()} == await logged(chorus)
