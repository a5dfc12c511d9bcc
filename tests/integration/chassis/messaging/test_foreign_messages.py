"""Messages with properties and headers that the client library cannot decode or encode."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import ValidationError

from apps import SERVICES
from chassis.database.transaction import transaction
from chassis.messaging.message import from_message, to_message
from chassis.messaging.outbox import Row
from chassis.messaging.publisher import UNFIT, Publisher
from chassis.messaging.relay import FAILED
from chassis.messaging.topology import DEAD, JOURNAL, queue_name
from events.base import Causation, Event
from events.orders import OrderPlaced
from events.users import SigningKeyPublished
from ops.dead import _whole
from ops.dead_letters import DeadLetters, NotReplayedError
from ops.journal import journal
from ops.subscriptions import SUBSCRIPTIONS
from tests.support.builders import an_order, outbox_row
from tests.support.eventually import eventually
from tests.support.fixtures import Install, Run
from tests.support.foreign_messages import properties
from tests.support.harness import RunningService
from tests.support.raw_amqp import RawMessage, RawPublisher
from tests.support.relay_harness import RelayHarness, placed

GOLDEN: Final = Path(__file__).parents[3] / "contracts" / "golden"
CASES: Final = tuple(properties())
OF: Final = {
    name: range(number, len(CASES), len(SERVICES)) for number, name in enumerate(SERVICES)
} | {"billing": range(len(CASES))}
"""The cases for each service, whose queues take turns. They have the same consumers, so one service gets all."""


def good(kind: type[Event], count: int) -> list[Row]:
    """Events of a kind, all with the same body."""
    body = (GOLDEN / f"{kind.key}.json").read_text()
    return [outbox_row(kind.model_validate_json(body)) for _ in range(count)]


def raw(row: Row, queue: str) -> RawMessage:
    message = to_message([row])
    return RawMessage(queue, message.properties.marshal(), message.body)


def bad(case: int, queue: str) -> RawMessage:
    """A message that no consumer can process, whatever its properties are."""
    return RawMessage(queue, CASES[case], json.dumps({"case": case}).encode())


def around(service: str, rows: list[Row]) -> Iterator[RawMessage]:
    """Each case in one of a service's queues, three good events before it and four behind it; adds these to `rows`."""
    kinds = SUBSCRIPTIONS[service]
    for turn, case in enumerate(OF[service]):
        kind = kinds[turn % len(kinds)]
        queue = queue_name(service, kind)
        innocent = (
            SigningKeyPublished if service == "orders" else kind
        )  # payments need their orders
        innocents = good(innocent, 7)
        rows += innocents
        target = queue_name(service, innocent)
        yield from (raw(row, target) for row in innocents[:3])
        yield bad(case, queue)
        yield from (raw(row, target) for row in innocents[3:])


@pytest.mark.parametrize("name", SERVICES)
async def test_they_are_dead_lettered_and_good_events_around_them_go_on(
    running_service: Run, name: str
) -> None:
    """On one connection; then the commands for dead letters read, refuse to replay, and drop each of them."""
    service = await running_service(name)
    connection = service.service.broker.latest_connection.transport
    rows: list[Row] = []
    publisher = await RawPublisher.open(service.installation.amqp_admin_url)
    await publisher.publish(around(name, rows))
    await service.has_processed(*rows)

    async def all_there() -> None:
        assert await service.broker.waiting(f"{name}.{DEAD}") == len(OF[name])

    await eventually(all_there)
    assert service.service.broker.latest_connection.transport is connection
    await _handled_by_commands(service)


async def _handled_by_commands(service: RunningService) -> None:
    async with DeadLetters.of(service.installation.amqp_admin_url) as dead:
        letters = await dead.hold([service.name])
        shown: list[dict[str, Any]] = [_whole(letter) for letter in letters]
        assert json.loads(json.dumps(shown))
        assert {json.loads(one["body"])["case"] for one in shown} == {*OF[service.name]}
        unreadable = [one for one in letters if "chorus_unreadable" in one.message.headers]
        assert unreadable
        with pytest.raises(NotReplayedError):
            await dead.replay(unreadable)
        await dead.drop(letters)

    async def dropped() -> None:
        assert await service.broker.waiting(f"{service.name}.{DEAD}") == 0

    await eventually(dropped)


async def test_the_journal_is_read_past_them(install_chorus: Install) -> None:
    chorus = await install_chorus("foreign", "orders")
    for case in range(0, len(CASES), 8):
        with contextlib.suppress(AssertionError):  # the broker's streams do not take all
            await (await RawPublisher.open(chorus.amqp_admin_url)).publish([bad(case, JOURNAL)])
    publisher = Publisher(chorus.amqp_admin_url, "tests")
    found = [one async for chunk in journal(chorus.amqp_admin_url, publisher) for one in chunk]
    await publisher.close()
    assert found == []


async def test_the_relay_publishes_past_a_row_that_amqp_cannot_carry(harness: RelayHarness) -> None:
    unfit = FAILED.labels("outbox", UNFIT)
    before = unfit._value.get()
    async with transaction(harness.pool) as tx:
        tx.publish(OrderPlaced(order=an_order()), Causation("x" * 300))
    async with harness.relaying() as relay:

        async def counted() -> None:
            assert unfit._value.get() > before

        await eventually(counted)
        await harness.commits(*placed(7))

        async def published() -> None:
            assert await harness.waiting() == 1
            assert len(harness.published) == 7

        await eventually(published)
        assert await relay.fault() == ""


@pytest.mark.parametrize("flow", ["x" * 129, "é" * 64, "a\0b"])
@pytest.mark.parametrize("events", [1, 2])
def test_what_following_events_take_over_is_bounded_on_receipt(flow: str, events: int) -> None:
    rows = [outbox_row(OrderPlaced(order=an_order()), correlation_id=flow) for _ in range(events)]
    found = from_message(to_message(rows), OrderPlaced)
    assert [type(one) for one in found] == [ValidationError] * events
