"""The baselines of the benchmark give the same guarantees about money and notifications as Chorus."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import pytest
from uuid_utils.compat import uuid7

from apps import SERVICES
from ops.audit import Urls
from ops.audit import audit as look
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tools.children import Child, ChildFailed
from tools.servers.ports import private_port
from tools.story import Story
from tools.system import Addresses, Login

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 64

KEPT: Final = {1, 2, 3, 4, 5, 6}
"""The invariants that apply to all of them. Only Chorus has copies of users, and an inbox."""


class SynchronousStory(Story):
    """The same story for services that wait for each other: the response to an order has its outcome already."""

    def _expect(self, part: str, step: str, body: Any, **fields: str) -> Any:
        if step == "POST /order/create":
            assert body["status"] in {"paid", "rejected"}
            del fields["status"]
        return super()._expect(part, step, body, **fields)


STORIES = {
    "http_only": SynchronousStory,
    "events_for_notifications": SynchronousStory,
    "usual": Story,
}


class Baseline:
    """The four processes of a baseline, and a mailbox, on the servers of the tests."""

    def __init__(self, name: str, installation: Installation, folder: Path) -> None:
        self.name = name
        self._installation = installation
        self._folder = folder
        self._smtp_port = private_port()
        self.urls = {part: f"http://127.0.0.1:{private_port()}" for part in (*SERVICES, "mail")}
        self.children = {service: self._service(service) for service in SERVICES}
        self.children["mail"] = self._child(
            "mail",
            "ops",
            "mailbox",
            f"--smtp-port={self._smtp_port}",
            f"--http-port={self._port('mail')}",
        )

    @property
    def databases(self) -> Urls:
        """The databases for an audit."""
        return Urls({s: self._installation.database_admin_url(s) for s in SERVICES})

    def _port(self, part: str) -> str:
        return self.urls[part].rpartition(":")[2]

    def _service(self, service: str) -> Child:
        return self._child(
            service, f"bench.baselines.{self.name}", service, "--port", self._port(service)
        )

    def _child(self, part: str, module: str, *arguments: str) -> Child:
        own = self._installation.environment
        own |= {f"CHORUS_AMQP_URL_{service.upper()}": "" for service in SERVICES}
        own |= {f"BENCH_URL_{service.upper()}": self.urls[service] for service in SERVICES}
        own["CHORUS_AMQP_URL"] = self._installation.amqp_admin_url
        own["CHORUS_SMTP_PORT"] = str(self._smtp_port)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
        return Child(
            part,
            [sys.executable, "-m", module, *arguments],
            log=self._folder / f"{part}.log",
            environment=inherited | own,
            folder=ROOT,
        )

    async def start(self) -> None:
        for child in self.children.values():
            child.start()
        for part in self.children:
            await self.ready(part)

    async def ready(self, part: str) -> None:
        path = "/healthz" if part == "mail" else "/ready"
        async with self.http(part) as http:

            async def answers() -> bool:
                child = self.children[part]
                if not child.running:
                    raise ChildFailed(f"{part} ended\n{child.tail()}")
                try:
                    return (await http.get(path)).is_success
                except httpx.TransportError:
                    return False

            await eventually(answers, within=60, what=f"{part} is not ready")

    async def stop(self) -> dict[str, int | None]:
        for child in self.children.values():
            child.ask_to_stop()
        with contextlib.suppress(AssertionError):  # what does not end in time is killed
            await eventually(self._ended, within=20)
        for child in self.children.values():
            child.kill()
            sys.stderr.write(f"--- {child.tail(60)}\n")
        return {part: child.exit_status for part, child in self.children.items()}

    async def _ended(self) -> bool:
        return not any(child.running for child in self.children.values())

    def http(self, part: str, token: str = "") -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(
            base_url=self.urls[part], headers=headers, timeout=30, trust_env=False
        )

    async def rows(self, service: str, sql: str, *values: Any) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self._installation.database_admin_url(service))
        try:
            return [dict(record) for record in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    async def is_quiet(self) -> None:
        """Wait until all orders are decided, and all notifications are sent."""

        async def done() -> None:
            orders = await self.rows("orders", "SELECT id, status FROM orders")
            assert "pending" not in {order["status"] for order in orders}
            notifications = await self.rows(
                "notifications", "SELECT order_id, status FROM notifications"
            )
            assert {row["order_id"] for row in notifications} == {order["id"] for order in orders}
            assert {row["status"] for row in notifications} <= {"sent"}

        await eventually(done, within=60)


class Customer:
    """A customer with money on their account, over the public HTTP API."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self.email = f"{uuid7()}@example.com"
        self.id = ""
        self.token = ""

    async def register(self, deposit: str) -> "Customer":
        login = {"email": self.email, "password": "correct horse battery"}
        async with self._baseline.http("users") as users:
            answer = await users.post("/user/register", json={**login, "name": "Ada"})
            self.id = answer.json()["userId"]
            assert (await users.post("/user/register", json={**login, "name": "Ada"})).is_error
            self.token = (await users.post("/user/login", json=login)).json()["accessToken"]
        async with self.http("billing") as billing:
            path = f"/account/{self.id}/deposit"
            answer = await billing.post(path, json={"amount": deposit})
            assert (answer.status_code, answer.json()["balance"]) == (201, deposit)
        return self

    def http(self, service: str) -> httpx.AsyncClient:
        return self._baseline.http(service, self.token)

    async def balance(self) -> str:
        async with self.http("billing") as billing:
            text: str = (await billing.get(f"/account/{self.id}")).json()["balance"]
            return text


@pytest.fixture(scope="module", params=list(STORIES))
async def baseline(
    request: pytest.FixtureRequest,
    install_chorus: Install,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Baseline]:
    name: str = request.param
    installation = await install_chorus(f"baseline_{name}")
    made = Baseline(name, installation, tmp_path_factory.mktemp(name))
    try:
        await made.start()
        yield made
    finally:
        ended = await made.stop()
    assert {service: ended[service] for service in SERVICES} == dict.fromkeys(SERVICES, 0)


async def audit(baseline: Baseline) -> None:
    """At rest: money, orders and notifications agree."""
    await baseline.is_quiet()
    report = await look(baseline.databases, at_rest=True, numbers=KEPT, timeout_seconds=1)
    assert report.lines() == []
    notifications = await baseline.rows(
        "notifications", "SELECT id, order_id, balance FROM notifications"
    )
    charges = await baseline.rows("billing", "SELECT order_id, balance FROM charges")
    assert {row["order_id"]: row["balance"] for row in notifications} == {
        row["order_id"]: row["balance"] for row in charges
    }
    async with baseline.http("mail") as mail:
        arrived = Counter(email["messageId"] for email in (await mail.get("/email")).json())
    assert arrived == Counter(f"<{row['id']}@chorus.test>" for row in notifications)


async def test_a_baseline_passes_the_same_story(baseline: Baseline) -> None:
    services = {service: baseline.urls[service] for service in SERVICES}
    addresses = Addresses(services, baseline.urls["mail"], Login("nobody", "nothing"))
    with contextlib.closing(STORIES[baseline.name](addresses)) as story:
        await asyncio.to_thread(story.play)
    await audit(baseline)


async def test_of_200_concurrent_orders_those_within_the_balance_are_paid(
    baseline: Baseline,
) -> None:
    ada = await Customer(baseline).register("120.50")
    turn = asyncio.Semaphore(IN_FLIGHT)
    async with ada.http("orders") as orders:

        async def order() -> UUID:
            async with turn:
                answer = await orders.post("/order/create", json={"totalPrice": "1.00"})
            assert answer.status_code == 201, answer.text
            return UUID(answer.json()["orderId"])

        order_ids = await asyncio.gather(*(order() for _ in range(200)))
    await audit(baseline)
    by_status = "SELECT status FROM orders WHERE id = ANY($1)"
    statuses = Counter(row["status"] for row in await baseline.rows("orders", by_status, order_ids))
    assert statuses == {"paid": 120, "rejected": 80}
    assert await ada.balance() == "0.50"
    async with ada.http("notifications") as notifications:
        page = (await notifications.get("/notification?limit=200")).json()
    assert Counter(UUID(item["orderId"]) for item in page["items"]) == Counter(order_ids)


async def test_the_same_key_in_parallel_is_one_order_and_one_deposit(baseline: Baseline) -> None:
    ada = await Customer(baseline).register("100.00")
    key = {"Idempotency-Key": str(uuid7())}
    for service, path, body in (
        ("orders", "/order/create", {"totalPrice": "30.00"}),
        ("billing", f"/account/{ada.id}/deposit", {"amount": "5.00"}),
    ):
        async with ada.http(service) as http:
            answers = await asyncio.gather(
                *(http.post(path, json=body, headers=key) for _ in range(20))
            )
            assert {answer.status_code for answer in answers} == {201}
            assert len({answer.text for answer in answers}) == 1
            other = await http.post(path, json=dict.fromkeys(body, "31.00"), headers=key)
            assert (other.status_code, other.json()["reason"]) == (422, "idempotency_key_reused")
        await baseline.is_quiet()
    assert await ada.balance() == "75.00"
    await audit(baseline)


async def test_an_order_without_a_response_of_billing_is_decided_once_it_is_back(
    baseline: Baseline,
) -> None:
    ada = await Customer(baseline).register("100.00")
    baseline.children["billing"].kill()
    async with ada.http("orders") as orders:
        answer = await orders.post("/order/create", json={"totalPrice": "30.00"})
        is_asynchronous = baseline.name == "usual"
        assert answer.status_code == (201 if is_asynchronous else 503)
        path = f"/order/{answer.json()['orderId']}"
        assert (await orders.get(path)).json()["status"] == "pending"
        baseline.children["billing"].start()
        await baseline.ready("billing")
        await audit(baseline)
        assert (await orders.get(path)).json()["status"] == "paid"
    assert await ada.balance() == "70.00"
