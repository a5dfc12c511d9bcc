"""Two processes of each service share its work: each event has its effects once, whichever consumes it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

from apps import SERVICES
from tests.stories.customers import Customer
from tests.stories.load import Load
from tests.stories.stack import Stack
from tests.support.eventually import eventually
from tests.support.processes import ServiceProcess


@asynccontextmanager
async def a_replica_of_each(chorus: Stack) -> AsyncIterator[dict[str, ServiceProcess]]:
    async with AsyncExitStack() as stack:
        replicas = await asyncio.gather(
            *(stack.enter_async_context(chorus.replica(service)) for service in SERVICES)
        )
        yield dict(zip(SERVICES, replicas, strict=True))


async def received(chorus: Stack, process: ServiceProcess, queue: str) -> float:
    return await chorus.metric(process, "chorus_inbox_processed_total", queue=queue)


async def test_two_replicas_of_each_service_have_one_effect_each(chorus: Stack) -> None:
    async with a_replica_of_each(chorus) as replicas:
        async with Load.on(chorus, "orders", replicas["orders"]) as load:
            await load.goes_on(200)
        await chorus.is_quiet()
        for service, queue in {
            "billing": "billing.order-placed",
            "orders": "orders.payment-succeeded",
            "notifications": "notifications.payment-succeeded",
        }.items():
            assert await received(chorus, replicas[service], queue), f"{service} did nothing"
    findings = await chorus.audit()
    assert not findings, "\n".join(findings)


async def test_one_key_sent_to_both_replicas_at_once_is_one_order(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    async with chorus.replica("orders") as replica:
        answers = await asyncio.gather(
            *(
                ada.ask_for_order("30.00", at=process, key="the-same")
                for _ in range(20)
                for process in ("orders", replica)
            )
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["orderId"] for answer in answers}) == 1
    await ada.mail(1)
    assert await ada.balance() == "70.00"


async def test_a_client_waiting_at_one_replica_gets_an_outcome_that_another_consumed(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    async with chorus.replica("orders") as other:
        waited = 0

        async def other_has_processed_some() -> bool:
            nonlocal waited
            answer = await ada.ask_for_order("1.00", Prefer="wait=20")
            assert (answer.status_code, answer.json()["status"]) == (201, "paid")
            waited += 1
            return await received(chorus, other, "orders.payment-succeeded") >= 3

        await eventually(other_has_processed_some, within=30)
        assert (await ada.ask_for_order("999.00", Prefer="wait=20")).status_code == 403


async def test_a_stream_of_one_replica_has_a_change_that_another_consumed(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    async with chorus.replica("orders") as other:

        async def other_has_processed_some() -> bool:
            order_id = await ada.order("1.00")
            seen = [change async for change in followed(ada, order_id)]
            assert seen[-1] == ("paid", "2")
            assert len(seen) <= 2
            return await received(chorus, other, "orders.payment-succeeded") >= 2

        await eventually(other_has_processed_some, within=30)


async def followed(customer: Customer, order_id: UUID) -> AsyncIterator[tuple[str, str]]:
    """Status and version of an order as the server-sent events tell them, until they end."""
    http = customer.stack.http("orders")
    headers = {"Authorization": f"Bearer {customer.token}"}
    event: dict[str, Any] = {}
    async with http.stream("GET", f"/order/{order_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            field, _, value = line.partition(": ")
            event[field] = value
            if not line and "data" in event:
                assert json.loads(event["data"])["status"] == event["event"]
                yield event["event"], event["id"]
                event = {}


async def test_a_rolling_restart_under_load_loses_and_doubles_nothing(chorus: Stack) -> None:
    async with a_replica_of_each(chorus) as replicas:
        async with Load.on(chorus, "orders", replicas["orders"]) as load:
            for service in SERVICES:
                for process in (chorus[service], replicas[service]):
                    await load.goes_on(10)
                    assert await process.stop() == 0, process.log
                    await load.goes_on(10)
                    await process.start()
            await load.goes_on(10)
        assert not [p.name for p in replicas.values() if "Traceback" in p.log]
