"""`chorus trace` shows what became of an order, and names the hop that is missing, where it waits, and why."""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result
from uuid_utils.compat import uuid7

from events.orders import OrderPlaced
from events.users import UserRegistered
from ops.main import cli
from tests.stories.stack import Stack
from tests.stories.test_operator_slips import republish, topology_is_applied
from tests.support.eventually import eventually
from tests.support.installation import environment

Document = dict[str, Any]

ORDERS = 50


async def run(chorus: Stack, *arguments: str, command: str = "trace") -> Result:
    with environment(chorus.installation.environment):
        return await asyncio.to_thread(CliRunner().invoke, cli, [command, *arguments])


async def traced(chorus: Stack, id: object, *arguments: str) -> Document:
    """The document about an id. The exit status says whether something is missing."""
    result = await run(chorus, str(id), "--json", *arguments)
    assert result.exit_code in {0, 1}, result.output
    document: Document = json.loads(result.stdout)
    assert document["complete"] == (result.exit_code == 0)
    return document


async def completed(chorus: Stack, id: object, *arguments: str) -> Document:
    async def complete() -> Document:
        document = await traced(chorus, id, *arguments)
        assert document["complete"], document["missing"]
        return document

    return await eventually(complete)


async def missing(chorus: Stack, id: object, place: str) -> Document:
    """The one thing that is missing, once it is found in a place."""

    async def found() -> Document:
        document = await traced(chorus, id)
        [one] = document["missing"]
        assert one["place"] == place, one
        hop: Document = one
        return hop

    return await eventually(found, within=40)


async def status_names(chorus: Stack, *lines: str) -> Document:
    """The document of `chorus status`, once its lines on what is wrong have these beginnings."""

    async def named() -> Document:
        result = await run(chorus, "--json", "--grace", "0", command="status")
        assert result.exit_code == 1, result.output
        document: Document = json.loads(result.stdout)
        for line in lines:
            assert any(one.startswith(line) for one in document["wrong"]), document
        return document

    return await eventually(named, within=40)


class TestComplete:
    async def test_a_paid_order(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        flow = str(uuid7())
        order = UUID((await ada.ask_for_order("30.00", X_Correlation_Id=flow)).json()["orderId"])
        await ada.notified(order, "joy")
        document = await completed(commanded, order)
        names = {event["id"]: event["type"] for event in document["events"]}
        assert {e["type"]: names.get(e["causationId"]) for e in document["events"]} == {
            "OrderPlaced": None,
            "PaymentSucceeded": "OrderPlaced",
            "OrderPaid": "PaymentSucceeded",
            "NotificationSent": "PaymentSucceeded",
        }
        deliveries = {
            (event["type"], delivery["service"])
            for event in document["events"]
            for delivery in event["deliveries"]
            if delivery["handledAt"] >= event["committedAt"]
        }
        assert deliveries == {
            ("OrderPlaced", "billing"),
            ("PaymentSucceeded", "orders"),
            ("PaymentSucceeded", "notifications"),
        }
        assert all(event["published"] for event in document["events"])
        [charge], [transfer] = document["charges"], document["transfers"]
        assert (charge["status"], charge["balance"]) == ("paid", "70.00")
        assert (transfer["kind"], transfer["amount"]) == ("payment", "30.00")
        [notification] = document["notifications"]
        assert (notification["status"], notification["address"]) == ("sent", ada.addresses[0])
        assert notification["answer"].startswith("250")
        by_flow = await completed(commanded, flow)
        assert [event["id"] for event in by_flow["events"]] == [*names]
        of_event = await completed(commanded, [*names][1])
        assert [event["id"] for event in of_event["events"]] == [*names]

    async def test_its_page_has_the_balance_the_ledger_and_the_answer(
        self, commanded: Stack
    ) -> None:
        ada = await commanded.customer(deposit="100.00")
        order = await ada.order("30.00")
        await ada.notified(order, "joy")
        await completed(commanded, order)
        page = (await run(commanded, str(order))).stdout
        assert "\x1b" not in page, "no colours in a pipe"
        assert "balance after it 70.00" in page
        assert "payment -30.00 of the user" in page
        assert "payment +30.00 of Chorus" in page
        assert f"to {ada.addresses[0]}" in page
        assert "sent: 250" in page
        diagram = (await run(commanded, str(order), "--mermaid")).stdout
        assert diagram.startswith("sequenceDiagram\n")
        assert "orders-)billing: OrderPlaced" in diagram

    async def test_a_cancelled_order_that_was_paid(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        order = await ada.order("30.00")
        await ada.settled(order)
        await ada.cancel(order)
        await ada.notified(order, "refund")
        document = await completed(commanded, order)
        assert {event["type"] for event in document["events"]} == {
            "OrderPlaced", "PaymentSucceeded", "OrderPaid", "OrderCancelled", "PaymentRefunded", "NotificationSent",
        }  # fmt: skip
        assert [one["kind"] for one in document["transfers"]] == ["payment", "refund"]

    async def test_a_user_with_orders_and_a_deposit(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        orders = [await ada.order("10.00"), await ada.order("500.00")]
        await ada.notified(orders[0], "joy")
        await ada.notified(orders[1], "sorrow")
        document = await completed(commanded, ada.id)
        assert {event["type"] for event in document["events"]} == {
            "UserRegistered", "AccountOpened", "FundsDeposited", "OrderPlaced", "PaymentSucceeded", "PaymentRejected",
            "OrderPaid", "OrderRejected", "NotificationSent",
        }  # fmt: skip
        assert "deposit +100.00 of the user" in (await run(commanded, str(ada.id))).stdout
        newest = await completed(commanded, ada.id, "--limit", "1")
        assert [order["id"] for order in newest["orders"]] == [str(orders[1])]
        registration = await completed(commanded, f"{ada.flow}.1", "--since", "1h")
        assert {event["type"] for event in registration["events"]} == {
            "UserRegistered", "AccountOpened"
        }  # fmt: skip

    async def test_orders_that_shared_transactions(self, commanded: Stack) -> None:
        ada = await commanded.customer(deposit="100.00")
        orders = await asyncio.gather(*(ada.order("1.00") for _ in range(ORDERS)))
        for order in orders:
            await ada.notified(order, "joy")
        document = await completed(commanded, ada.id, "--limit", str(ORDERS))
        types = Counter(event["type"] for event in document["events"])
        outcome = ("OrderPlaced", "PaymentSucceeded", "OrderPaid", "NotificationSent")
        assert {name: types[name] for name in outcome} == dict.fromkeys(outcome, ORDERS)
        assert any(event["batch"] > 1 for event in document["events"])


class TestEventLog:
    async def test_an_event_is_found_whatever_the_clock_of_its_process(
        self, commanded: Stack
    ) -> None:
        """Its id is of another day; if its time differs from that of the order's row, it is not in the log."""
        ada = await commanded.customer(deposit="100.00")
        order = await ada.order("30.00")
        await ada.notified(order, "joy")
        events = (await completed(commanded, order))["events"]
        await commanded.is_quiet()  # the journal's relay looks for the row by its id
        [row] = [UUID(event["row"]) for event in events if event["type"] == "OrderPaid"]
        other = UUID("0e000000-0000-7000-8000-000000000000")
        move = "UPDATE event_log SET id = $2 WHERE id = $1"
        await commanded.rows("orders", move, row, other)
        try:
            assert len((await completed(commanded, order))["events"]) == len(events)
            shift = "UPDATE event_log SET occurred_at = occurred_at + $2::interval WHERE id = $1"
            await commanded.rows("orders", shift, other, timedelta(microseconds=1))
            hop = await missing(commanded, order, "event log")
            assert "has no OrderPaid" in hop["reason"]
            await commanded.rows("orders", shift, other, -timedelta(microseconds=1))
        finally:
            await commanded.rows("orders", move, other, row)


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


async def test_the_status_of_a_system_that_works(commanded: Stack) -> None:
    await commanded.is_quiet()

    async def nothing_is_wrong() -> None:
        result = await run(commanded, command="status")
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("nothing is wrong\n")

    await eventually(nothing_is_wrong, within=30)


class TestExitStatus:
    async def test_unknown_ids_and_wrong_command_lines(self, commanded: Stack) -> None:
        assert (await run(commanded, str(uuid7()))).exit_code == 3
        assert (await run(commanded, "nobody", "--since", "1m")).exit_code == 3
        assert (await run(commanded, str(uuid7()), "--json", "--mermaid")).exit_code == 2

    async def test_a_database_that_does_not_answer(self, commanded: Stack) -> None:
        away = {"CHORUS_DATABASE_URL_BILLING": "postgresql://nobody@127.0.0.1:1/billing"}
        with environment(commanded.installation.environment | away):
            result = await asyncio.to_thread(CliRunner().invoke, cli, ["trace", str(uuid7())])
            status = await asyncio.to_thread(CliRunner().invoke, cli, ["status", "--json"])
        assert result.exit_code == status.exit_code == 2
        assert "billing" in result.stderr
        [unknown] = json.loads(status.stdout)["unknown"]
        assert unknown.startswith("billing: ")
