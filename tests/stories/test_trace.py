"""`chorus trace` shows what became of an order, a flow or a user."""

import asyncio
import json
from collections import Counter
from datetime import timedelta
from uuid import UUID

from typer.testing import CliRunner
from uuid_utils.compat import uuid7

from ops.main import cli
from tests.stories.stack import Stack
from tests.stories.tracing import completed, missing, run
from tests.support.eventually import eventually
from tests.support.installation import environment

ORDERS = 50


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
