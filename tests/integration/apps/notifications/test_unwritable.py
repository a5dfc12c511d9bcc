"""Notifications while its database is read-only."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

import pytest

from apps.notifications import dispatcher, use_cases
from apps.notifications.api import router
from apps.notifications.consumers import SUBSCRIPTIONS
from apps.notifications.main import compose
from chassis.database import pool
from chassis.runtime.service import create_app
from events.users import UserRegistered, UserState
from tests.support.builders import a_user, an_order, payment_succeeded
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.installation import install
from tests.support.mail import MailSink
from tests.support.servers import Servers
from tests.support.unwritable import read_only
from tools.servers import PrivatePostgres, private_server

LEASE: Final = 3.0
COUNT: Final = 300
UNRECORDED: Final = 24


@pytest.fixture(scope="module")
def server() -> Iterator[PrivatePostgres]:
    with private_server(PrivatePostgres) as made:
        yield made


@pytest.fixture(scope="module")
async def replicas(
    servers: Servers, worker: str, server: PrivatePostgres, mail: MailSink
) -> AsyncIterator[list[RunningService]]:
    """Two dispatchers with short leases."""
    installation = await install(
        replace(servers, database_admin_url=server.url), f"unwritable_{worker}", ("notifications",)
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (use_cases, dispatcher):
            patch.setattr(module, "LEASE_SECONDS", LEASE)
        patch.setattr(dispatcher, "RENEW_SECONDS", LEASE / 3)
        patch.setattr(dispatcher, "UNRECORDED_LIMIT", UNRECORDED)
        patch.setattr(pool, "WRITE_SECONDS", 0.1)
        async with AsyncExitStack() as stack:
            running = []
            for _ in range(2):
                app = create_app(
                    "notifications",
                    description="",
                    router=router,
                    subscriptions=SUBSCRIPTIONS,
                    compose=compose,
                )
                service = RunningService("notifications", app, installation)
                settings = {"CHORUS_SMTP_PORT": str(mail.port)}
                running.append(await stack.enter_async_context(service.running(settings)))
            yield running


async def status_of(service: RunningService, *users: UserState) -> dict[str, int]:
    sql = "SELECT status, count(*) FROM notifications WHERE user_id = ANY($1) GROUP BY 1"
    return dict(await service.rows(sql, [user.id for user in users]))


async def test_no_e_mail_is_sent_twice(
    replicas: list[RunningService], server: PrivatePostgres, mail: MailSink
) -> None:
    notifications, ada = replicas[0], a_user()
    await notifications.processes(UserRegistered(user=ada))
    events = [payment_succeeded(an_order(user=ada)) for _ in range(COUNT)]

    async def some_arrived() -> bool:
        return len(mail.to(ada.email)) >= COUNT // 10

    async def all_are(status: dict[str, int]) -> bool:
        return await status_of(notifications, ada) == status

    async def no_lease_is_left() -> bool:
        left = "SELECT count(*) FROM notifications WHERE status = 'pending' AND due_at > now()"
        return bool(await notifications.value(left) == 0)

    with mail.slow(0.02):
        await notifications.processes(*events, as_batch=True)
        await eventually(some_arrived)
        async with read_only(server):
            await eventually(no_lease_is_left)
            sent = (await status_of(notifications, ada)).get("sent", 0)
            # What dispatchers that died now would send again. Without the limit it is all that they had leased.
            assert len(mail.to(ada.email)) - sent <= UNRECORDED * len(replicas)
        await eventually(lambda: all_are({"sent": COUNT}), within=60)
    ids = [e_mail.message["Message-ID"] for e_mail in mail.to(ada.email)]
    assert len(ids) == COUNT
    assert len(set(ids)) == COUNT


async def test_the_service_is_not_ready_and_says_why(
    replicas: list[RunningService], server: PrivatePostgres
) -> None:
    notifications, ada = replicas[0], a_user()
    await notifications.processes(UserRegistered(user=ada))
    await notifications.is_ready(200)
    async with read_only(server):
        await notifications.is_ready(503)
        async with notifications.as_operator() as operator:
            answer = (await operator.get("/ready")).json()
            assert not answer["checks"]["database"]
            assert "database: ReadOnlySQLTransactionError" in answer["detail"]
            answers = [await _send_message(operator, ada) for _ in range(12)]
            # Some may find room in a page; none fails otherwise than by the database.
            assert {one.status_code for one in answers} <= {201, 202, 503}
            assert answers[-1].status_code == 503
    await notifications.is_ready(200)
    async with notifications.as_operator() as operator:
        assert (await _send_message(operator, ada)).is_success


async def _send_message(operator: Any, user: UserState) -> Any:
    body = {"userId": str(user.id), "subject": "Hello", "body": "x" * 1500}
    return await operator.post(
        "/notification/send", json=body, headers={"Idempotency-Key": str(uuid4())}
    )


async def test_a_connection_to_a_read_only_server_is_not_used_again(
    replicas: list[RunningService], server: PrivatePostgres
) -> None:
    pool = replicas[0].service.database.pool
    pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'chorus-notifications'"
    async with read_only(server):
        before = {row["pid"] for row in await replicas[0].rows(pids)}
        await replicas[0].is_ready(503)

        async def replaced() -> bool:
            async with asyncio.timeout(5):
                return await pool.fetchval("SELECT pg_backend_pid()") not in before

        await eventually(replaced)
