"""Several replicas of orders, as real processes: a client of one receives the outcome that another consumed."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from events.orders import OrderPlaced, OrderState
from tests.support.broker import Broker, Tap
from tests.support.builders import a_user, payment_succeeded
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.processes import Processes, ServiceProcess
from tests.support.tokens import Signer


class Replicas:
    """Two processes of orders on one database and one broker; the test publishes the events of billing."""

    def __init__(self, a: ServiceProcess, b: ServiceProcess, broker: Broker, tap: Tap) -> None:
        self.a, self.b = a, b
        self.broker = broker
        self.tap = tap
        self.signer = Signer()

    def http(self, replica: ServiceProcess, user_id: UUID) -> httpx.AsyncClient:
        return replica.http(self.signer.token(user_id))

    async def placed(self, user_id: UUID, count: int) -> list[OrderState]:
        """Wait until a user's orders are published."""

        async def found() -> list[OrderState]:
            orders = [e.order for e in self.tap.events if isinstance(e, OrderPlaced)]
            mine = [order for order in orders if order.user_id == user_id]
            assert len(mine) == count
            return mine

        return await eventually(found)


async def received(replica: ServiceProcess) -> int:
    """The number of PaymentSucceeded that a replica has processed."""
    series = 'chorus_inbox_processed_total{queue="orders.payment-succeeded"} '
    async with replica.http() as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return int(sum(float(line.removeprefix(series)) for line in lines if line.startswith(series)))


@pytest.fixture(scope="module")
async def replicas(install_chorus: Install, module_processes: Processes) -> AsyncIterator[Replicas]:
    installation = await install_chorus("replicas", "orders")
    a = module_processes.of("orders", installation, name="a")
    b = module_processes.of("orders", installation, name="b")
    a.launch()
    b.launch()
    broker = Broker(installation.amqp_admin_url)
    await broker.open()
    await asyncio.gather(a.ready(), b.ready())
    async with broker.tap("orders") as tap:
        both = Replicas(a, b, broker, tap)
        await broker.publish(both.signer.published())
        for replica in (a, b):
            await trusts(both, replica)
        yield both
    await broker.close()


async def trusts(replicas: Replicas, replica: ServiceProcess) -> None:
    """Wait until a replica trusts the tests' signing key."""
    async with replicas.http(replica, a_user().id) as http:

        async def let_in() -> bool:
            return (await http.get("/order")).status_code == 200

        await eventually(let_in)


async def test_a_client_of_one_replica_receives_an_outcome_that_another_consumed(
    replicas: Replicas,
) -> None:
    user = a_user()
    before = [await received(replicas.a), await received(replicas.b)]
    async with replicas.http(replicas.a, user.id) as ada:
        waiting = [
            asyncio.create_task(
                ada.post("/order/create", json={"totalPrice": 1}, headers={"Prefer": "wait=20"})
            )
            for _ in range(10)
        ]
        placed = await replicas.placed(user.id, 10)
        assert not any(task.done() for task in waiting)
        await replicas.broker.publish(*map(payment_succeeded, placed))
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*waiting)
    assert {(a.status_code, a.json()["status"]) for a in answers} == {(201, "paid")}
    after = [await received(replicas.a), await received(replicas.b)]
    assert sum(after) - sum(before) == 10
    assert after[1] > before[1], "the other replica has consumed none"


async def test_a_stream_has_the_order_and_its_change_on_any_replica(
    replicas: Replicas,
) -> None:
    user = a_user()
    async with (
        replicas.http(replicas.a, user.id) as ada,
        replicas.http(replicas.b, user.id) as also,
    ):
        await ada.post("/order/create", json={"totalPrice": 1})
        [order] = await replicas.placed(user.id, 1)
        path = f"/order/{order.id}/events"
        async with ada.stream("GET", path) as at_a, also.stream("GET", path) as at_b:
            streams = [at_a.aiter_lines(), at_b.aiter_lines()]
            for lines in streams:
                assert await following(lines) == "pending"
            await replicas.broker.publish(payment_succeeded(order))
            for lines in streams:
                assert await following(lines) == "paid"
                assert await following(lines) is None, "the stream ends"


async def following(lines: AsyncIterator[str]) -> str | None:
    """The name of the stream's next event; None at its end."""
    async with asyncio.timeout(30):
        async for line in lines:
            if line.startswith("event: "):
                return line.removeprefix("event: ")
    return None


async def test_one_key_sent_to_two_replicas_at_once_places_one_order(replicas: Replicas) -> None:
    user = a_user()
    async with (
        replicas.http(replicas.a, user.id) as ada,
        replicas.http(replicas.b, user.id) as also,
    ):
        answers = await asyncio.gather(
            *(
                client.post(
                    "/order/create", json={"totalPrice": 5}, headers={"Idempotency-Key": "both"}
                )
                for client in [ada, also] * 10
            )
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    await replicas.placed(user.id, 1)


async def test_a_replica_that_stops_answers_waiting_clients_and_ends_with_status_0(
    install_chorus: Install, replicas: Replicas, processes: Processes
) -> None:
    installation = await install_chorus("replicas")
    third = await processes.of("orders", installation, name="c").start()
    await trusts(replicas, third)
    user = a_user()
    async with replicas.http(third, user.id) as ada:
        waiting = asyncio.create_task(
            ada.post("/order/create", json={"totalPrice": 1}, headers={"Prefer": "wait=30"})
        )
        await replicas.placed(user.id, 1)
        third.terminate()
        answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
    assert await third.ended(within=15) == 0
