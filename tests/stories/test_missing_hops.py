"""`chorus trace` names the hop that is missing, where it waits, and why; `chorus status` names it as well."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from typer.testing import CliRunner

from events.orders import OrderPlaced
from events.users import UserRegistered
from ops.main import cli
from tests.stories.stack import Stack
from tests.stories.test_operator_slips import republish, topology_is_applied
from tests.stories.tracing import completed, missing, run, status_names, traced
from tests.support.eventually import eventually
from tests.support.installation import environment


class TestMissing:
    async def test_billing_is_stopped(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        await commanded["billing"].stop()
        order = await ada.order("30.00")
        hop = await missing(commanded, order, "queue")
        assert hop["where"] == "billing.order-placed"
        assert "billing does not run" in hop["reason"]
        await status_names(
            commanded,
            "billing: does not run",
            "billing.order-placed: no consumer",
            "orders pending: 1,",
        )
        followed = asyncio.create_task(run(commanded, str(order), "--follow", "--json"))
        await commanded.heal()
        await ada.settled(order)
        result = await followed
        assert result.exit_code == 0
        first, *_, last = [json.loads(line) for line in result.stdout.splitlines()]
        assert (first["complete"], last["complete"]) == (False, True)

    async def test_billing_is_frozen(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        with frozen(commanded, "billing"):
            order = await ada.order("30.00")
            hop = await missing(commanded, order, "consumer")
            assert hop["where"] == "billing"
            assert "delivered and not acknowledged" in hop["reason"]
            document = await status_names(commanded, "orders pending: 1,")
            assert document["queues"]["billing.order-placed"]["unacknowledged"] == 1
        await ada.settled(order)

    async def test_the_broker_returns_the_event(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        queue = await commanded.broker.channel.get_queue("billing.order-placed", ensure=False)
        await queue.unbind("orders", OrderPlaced.key)
        order = await ada.order("30.00")
        hop = await missing(commanded, order, "outbox")
        assert hop["where"] == "outbox of orders"
        assert "no queue is bound" in hop["reason"]
        await status_names(
            commanded, "outbox of orders: rows: 1,", "billing.order-placed: not bound"
        )
        await topology_is_applied(commanded)
        await ada.settled(order)

    @pytest.mark.usefixtures("at_once")
    async def test_the_broker_has_lost_the_event(self, commanded: Stack) -> None:
        """One binding of several is missing: the event is confirmed, and one subscriber never receives it."""
        ada = await commanded.customer(deposit="100.00")
        queue = await commanded.broker.channel.get_queue(
            "notifications.payment-succeeded", ensure=False
        )
        await queue.unbind("billing", "payment-succeeded.v1")
        order = await ada.order("30.00")
        await ada.settled(order)
        hop = await missing(commanded, order, "lost")
        assert hop["where"] == "notifications.payment-succeeded"
        assert "not bound" in hop["reason"]
        await status_names(commanded, "notifications.payment-succeeded: not bound")
        await topology_is_applied(commanded)
        hop = await missing(commanded, order, "lost")
        assert "purged" in hop["reason"]
        await republish(commanded, "--missing")
        await completed(commanded, order)

    async def test_an_event_is_dead_lettered(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        async with spoiled_charges(commanded):
            order = await ada.order("30.00")
            hop = await missing(commanded, order, "dead letters")
        assert hop["where"] == "billing.dead"
        assert "after 4 attempts" in hop["reason"]
        assert "no charge today" in hop["reason"]
        document = await status_names(commanded, "billing.dead: dead-lettered messages: 1")
        assert "no charge today" in document["failures"][0]["reason"]
        with environment(commanded.installation.environment):
            replay = ["dead", "replay", hop["event"]]
            assert (await asyncio.to_thread(CliRunner().invoke, cli, replay)).exit_code == 0
        await ada.settled(order)

    async def test_the_mail_server_defers(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        with commanded.mail.refusing(ada.addresses[0], "451 4.7.1 come back later"):
            order = await ada.order("30.00")
            await ada.settled(order)

            async def refused() -> None:
                hop = await missing(commanded, order, "notification")
                assert "451 4.7.1 come back later" in hop["reason"]

            await eventually(refused)
            document = await status_names(commanded, "notifications pending: 1,")
            assert "451" in document["failures"][0]["reason"]
        await ada.notified(order, "joy")

    async def test_the_mail_server_is_away(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        async with commanded.mail.gone():
            order = await ada.order("30.00")
            await ada.settled(order)
            hop = await missing(commanded, order, "notification")
            assert hop["where"].startswith("joy notification")
        await ada.notified(order, "joy")

    async def test_a_notification_waits_for_its_recipient(self, commanded: Stack) -> None:
        async with commanded.broker.withheld(UserRegistered, "notifications"):
            ada = await commanded.customer(deposit="100.00")
            order = await ada.order("30.00")
            await ada.notified(order, "joy", "waiting")

            async def both() -> None:
                document = await traced(commanded, order)
                found = {one["place"]: one for one in document["missing"]}
                assert found.keys() == {"notification", "lost"}
                assert f"{ada.id} is unknown to notifications" in found["notification"]["reason"]
                assert found["lost"]["where"] == "notifications.user-registered"

            await eventually(both, within=40)
            await status_names(commanded, "notifications waiting: 1,")
        await ada.notified(order, "joy")


@contextlib.contextmanager
def frozen(chorus: Stack, service: str) -> Iterator[None]:
    pid = chorus[service].child.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def spoiled_charges(chorus: Stack) -> AsyncIterator[None]:
    """Billing cannot charge an order."""
    await chorus.rows("billing", FAIL)
    await chorus.rows(
        "billing", "CREATE TRIGGER fails BEFORE INSERT ON charges EXECUTE FUNCTION fail()"
    )
    try:
        yield
    finally:
        await chorus.rows("billing", "DROP FUNCTION fail CASCADE")


FAIL = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no charge today'; END$$
"""
