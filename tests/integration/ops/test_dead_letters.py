"""`chorus dead` on a real broker: it lists dead letters without loss, replays each once, or discards it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from pamqp.common import FieldTable
from typer.testing import CliRunner, Result

from chassis.messaging import message as wire
from chassis.messaging.dead_letters import with_reason
from chassis.messaging.outbox import Row
from chassis.messaging.topology import DEAD, dead_letter_exchange, queue_name
from events.orders import OrderPlaced
from ops.main import cli
from tests.support.broker import Broker
from tests.support.builders import a_user, an_order, now, outbox_row
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.installation import environment
from tests.support.tokens import Signer

QUEUE = queue_name("billing", OrderPlaced)


@dataclass
class DeadLetterCommand:
    """A running billing service, and the command as an operator runs it."""

    billing: RunningService
    broker: Broker

    async def run(self, *arguments: str, status: int = 0) -> Result:
        """Run `chorus dead ...` and check its exit status."""
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["dead", *arguments])
        assert result.exit_code == status, result.output
        return result

    async def listed(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            (await self.run("list", "--json", *arguments)).stdout
        )
        return found

    async def put(self, row: Row, error: Exception, *, copies: int = 1, queue: str = QUEUE) -> None:
        """Dead-letter an event as billing does."""
        for _ in range(copies):
            message = with_reason(
                wire.to_message([row]),
                queue=queue,
                exchange="orders",
                key=row.routing_key,
                error=error,
                attempts=4,
            )
            await self.broker.send(message, dead_letter_exchange("billing"), "billing")

        async def there() -> bool:
            return await self.broker.waiting(f"billing.{DEAD}") >= copies

        await eventually(there)

    async def charges(self, row: Row) -> int:
        order_id = UUID(row.attributes["subject"])
        count: int = await self.billing.value(
            "SELECT count(*) FROM charges WHERE order_id = $1", order_id
        )
        return count


@pytest.fixture
async def chorus_dead(billing: RunningService) -> AsyncIterator[DeadLetterCommand]:
    broker = Broker(billing.installation.amqp_admin_url)
    await broker.open()
    # Only billing runs here, with a vhost of its own: the other services have no login in it.
    with environment(
        {"CHORUS_AMQP_URL_USERS": billing.installation.amqp_url("billing")}
        | dict(billing.installation.environment)
    ):
        yield DeadLetterCommand(billing, broker)
    await broker.purge(f"billing.{DEAD}")
    await broker.close()


def an_event() -> Row:
    return outbox_row(OrderPlaced(order=an_order(total="1.00", user=a_user())))


async def test_a_list_has_the_queue_reason_and_time_of_each_dead_letter(
    chorus_dead: DeadLetterCommand,
) -> None:
    row = an_event()
    before = now() - timedelta(seconds=1)
    await chorus_dead.put(row, ValueError("the cause"))
    [listed] = await chorus_dead.listed("--service", "billing")
    since = listed.pop("since")
    assert listed == {
        "id": str(row.id),
        "service": "billing",
        "type": "OrderPlaced",
        "queue": QUEUE,
        "reason": "ValueError: the cause",
        "attempts": 4,
        "correlationId": row.attributes["correlationid"],
    }
    assert before.isoformat()[:19] <= since[:19] <= now().isoformat()[:19]
    shown = await chorus_dead.run("show", str(row.id), "--service", "billing")
    assert '"dead_letter_queue": "billing.order-placed"' in shown.stdout
    assert row.attributes["subject"] in shown.stdout


async def test_listing_leaves_every_dead_letter(chorus_dead: DeadLetterCommand) -> None:
    await chorus_dead.put(an_event(), ValueError())
    for _ in range(25):  # more than the broker's default delivery limit
        assert len(await chorus_dead.listed("--service", "billing")) == 1


async def test_a_dry_run_has_no_effect(chorus_dead: DeadLetterCommand) -> None:
    row = an_event()
    await chorus_dead.put(row, ValueError())
    for command in ("replay", "drop"):
        result = await chorus_dead.run(command, str(row.id), "--service", "billing", "--dry-run")
        assert "1 would be" in result.stdout
    assert len(await chorus_dead.listed("--service", "billing")) == 1
    assert await chorus_dead.charges(row) == 0


async def test_dead_letters_replayed_twice_have_one_effect(chorus_dead: DeadLetterCommand) -> None:
    row = an_event()
    await chorus_dead.put(row, ValueError(), copies=2)
    assert "2 were replayed" in (await chorus_dead.run("replay", "--service", "billing")).stdout
    await chorus_dead.put(row, ValueError())
    assert (
        "1 were replayed"
        in (await chorus_dead.run("replay", str(row.id), "--service", "billing")).stdout
    )
    await chorus_dead.billing.has_processed(row)
    assert await chorus_dead.charges(row) == 1
    assert await chorus_dead.listed("--service", "billing") == []


async def test_a_replay_that_dies_before_the_ack_loses_nothing(
    chorus_dead: DeadLetterCommand,
) -> None:
    row = an_event()
    await chorus_dead.put(row, ValueError())
    died = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "dead", "replay", "--service", "billing",
        env={**os.environ, "CHORUS_CRASH_AT": "publisher.after_publish"},
        cwd=Path(__file__).parents[3], stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await died.wait() == -signal.SIGKILL

    async def back() -> bool:
        return await chorus_dead.broker.waiting(f"billing.{DEAD}") == 1

    await eventually(back, what="the dead letter is not requeued")
    await chorus_dead.run("replay", str(row.id), "--service", "billing")
    await chorus_dead.billing.has_processed(row)
    assert await chorus_dead.charges(row) == 1


async def test_a_replay_goes_to_the_consumer_that_dead_lettered_it_only(
    chorus_dead: DeadLetterCommand,
) -> None:
    row = an_event()
    await chorus_dead.put(row, ValueError())
    async with chorus_dead.broker.tap("orders") as tap:
        await chorus_dead.run("replay", str(row.id), "--service", "billing")
        await chorus_dead.billing.has_processed(row)
        await tap.flush()
    assert tap.messages == []


async def test_filters_select_dead_letters(chorus_dead: DeadLetterCommand) -> None:
    late, locked = an_event(), an_event()
    await chorus_dead.put(late, TimeoutError("late"))
    await chorus_dead.put(locked, ValueError("locked"), copies=1)
    for filters, chosen in {
        ("--reason", "locked"): {locked.id},
        ("--type", "OrderPlaced"): {late.id, locked.id},
        ("--queue", "billing.order-cancelled"): set(),
        ("--older-than", "1d"): set(),
        ("--newer-than", "1d"): {late.id, locked.id},
        ("--newer-than", "0s"): set(),
        (str(late.id),): {late.id},
    }.items():
        listed = await chorus_dead.listed("--service", "billing", *filters)
        assert {UUID(letter["id"]) for letter in listed} == chosen, filters


async def test_a_discarded_dead_letter_is_deleted(chorus_dead: DeadLetterCommand) -> None:
    kept, dropped = an_event(), an_event()
    await chorus_dead.put(kept, ValueError())
    await chorus_dead.put(dropped, ValueError())
    await chorus_dead.run("drop", str(dropped.id), "--service", "billing")
    assert [letter["id"] for letter in await chorus_dead.listed("--service", "billing")] == [
        str(kept.id)
    ]
    assert await chorus_dead.charges(dropped) == 0


async def test_hundreds_that_are_dropped_are_deleted(chorus_dead: DeadLetterCommand) -> None:
    """A channel keeps acknowledgements back if there are many, and forgets them if it closes."""
    row = outbox_row(OrderPlaced(order=an_order()))
    await chorus_dead.put(row, ValueError("many"), copies=600)
    await chorus_dead.run("drop", "--queue", QUEUE)
    assert await chorus_dead.listed() == []


async def test_unselected_and_missing_dead_letters_are_reported(
    chorus_dead: DeadLetterCommand,
) -> None:
    await chorus_dead.run("drop", status=2)
    for option in ("--reason", "--queue", "--type", "--service"):  # an unset variable of a shell
        await chorus_dead.run("drop", option, "", status=2)
    await chorus_dead.run("replay", "--all", "--service", "billing", status=2)
    await chorus_dead.run("list", "--service", "nobody", status=2)
    await chorus_dead.run("list", "--older-than", "long", status=2)
    await chorus_dead.run("drop", "no-such-id", "--service", "billing", status=1)


@pytest.mark.parametrize("queue", ["orders.payment-succeeded", "billing.dead", "nowhere"])
async def test_a_dead_letter_of_another_services_queue_stays_and_others_are_replayed(
    chorus_dead: DeadLetterCommand, queue: str
) -> None:
    """Headers written by hand must not route a replay to another consumer."""
    foreign, own = an_event(), an_event()
    await chorus_dead.put(foreign, ValueError(), queue=queue)
    await chorus_dead.put(own, ValueError())
    result = await chorus_dead.run("replay", "--service", "billing", status=1)
    assert f"billing does not consume {queue}" in result.stderr
    await chorus_dead.billing.has_processed(own)
    assert await chorus_dead.charges(own) == 1
    [left] = await chorus_dead.listed("--service", "billing")
    assert left["id"] == str(foreign.id)


async def test_any_node_of_a_cluster_is_used(chorus_dead: DeadLetterCommand) -> None:
    await chorus_dead.put(an_event(), ValueError())
    url = chorus_dead.billing.installation.amqp_url("billing")
    away = url.replace(str(urlsplit(url).port), "1")
    with environment(
        dict(chorus_dead.billing.installation.environment)
        | {"CHORUS_AMQP_URL_USERS": f"{away}, {url}"}
    ):
        assert len(await chorus_dead.listed("--service", "billing")) == 1


async def test_a_dead_letter_without_a_reason_stays(chorus_dead: DeadLetterCommand) -> None:
    await chorus_dead.broker.send(wire.to_message([an_event()]), DEAD, "billing")
    await chorus_dead.run("replay", "--service", "billing", status=1)
    [left] = await chorus_dead.listed("--service", "billing")
    assert left["queue"] == ""


async def test_headers_of_the_publisher_do_not_say_where_a_replay_goes(
    chorus_dead: DeadLetterCommand,
) -> None:
    """The broker keeps a message's headers when it dead-letters it itself, as it does when the queue is full."""
    key, queue, forged = (
        Signer("forged").published(), "orders.payment-succeeded", "orders.signing-key-published"
    )  # fmt: skip
    message = wire.to_message([outbox_row(key)])
    death: FieldTable = {"queue": forged, "reason": "rejected", "exchange": "users", "count": 1}
    message.headers |= {"dead_letter_queue": forged, "x-death": [death]}
    broker = chorus_dead.broker
    await broker.purge(queue)  # of other tests' messages
    await broker.send(message, "billing", "payment-succeeded.v1")
    before = await broker.waiting(forged)
    rejected = await (await broker.channel.get_queue(queue, ensure=False)).get()
    assert rejected is not None
    await rejected.reject(requeue=False)

    async def dead() -> bool:
        return await broker.waiting(f"orders.{DEAD}") == 1

    await eventually(dead)
    [letter] = await chorus_dead.listed("--service", "orders")
    assert letter["queue"] == queue
    await chorus_dead.run("replay", "--service", "orders")
    assert (await broker.waiting(queue), await broker.waiting(forged)) == (1, before)
    await broker.purge(queue)
