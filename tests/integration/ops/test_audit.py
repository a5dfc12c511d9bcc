"""`chorus audit` as an operator runs it: its report, exit status and metrics, and what its logins may do."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from apps import SERVICES
from chassis.messaging.topology import DEAD
from ops.audit.databases import Database, DatabaseUnavailableError
from tests.support.broker import Broker
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tools.servers.ports import private_port

INVENTED = UUID("0f000000-0000-7000-8000-000000000001")
SLOW = UUID("01700000-0000-7000-8000-000000000000")


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    """Four databases and a vhost, with nothing in them."""
    return await install_chorus("audit_command")


def environment(chorus: Installation) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
    return inherited | chorus.environment


async def run(env: Mapping[str, str], *arguments: str) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error of `chorus audit`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "audit", "--timeout=0.5", *arguments,
        env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def execute(url: str, script: str, *values: Any) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(script, *values)
    finally:
        await connection.close()


@asynccontextmanager
async def an_invented_event(chorus: Installation) -> AsyncIterator[None]:
    """Billing has received an event that was never published, in this block."""
    url = chorus.database_admin_url("billing")
    await execute(
        url,
        "INSERT INTO inbox VALUES (event_group($1), 'users', event_member($1), now() - interval '5 minutes')",
        INVENTED,
    )
    try:
        yield
    finally:
        await execute(url, "DELETE FROM inbox WHERE id = event_group($1)", INVENTED)


async def test_without_findings_it_ends_with_0(chorus: Installation) -> None:
    status, out, err = await run(environment(chorus))
    assert (status, err) == (0, ""), out
    assert "1 the ledger adds up" in out
    assert "9 what was published was received" in out


async def test_a_violation_ends_with_1_and_is_reported(chorus: Installation) -> None:
    async with an_invented_event(chorus):
        status, out, _ = await run(environment(chorus))
        as_json, text, _ = await run(environment(chorus), "--json")
    assert (status, as_json) == (1, 1)
    assert (
        "    event 0f000000-0000-7000-8000-000000000000 differs: users has nothing, billing has events 2"
        in out
    )
    report = json.loads(text)
    assert not report["clean"]
    [violated] = [one for one in report["invariants"] if one["violations"]]
    assert violated["number"] == 9
    assert violated["examples"] == [
        {
            "kind": "event",
            "id": "0f000000-0000-7000-8000-000000000000",
            "text": "event 0f000000-0000-7000-8000-000000000000 differs:"
            " users has nothing, billing has events 2",
        }
    ]


async def test_an_unavailable_database_ends_with_2(chorus: Installation) -> None:
    away = environment(chorus) | {"CHORUS_DATABASE_URL_ORDERS": "postgresql://orders@127.0.0.1:1/o"}
    status, out, err = await run(away)
    assert (status, out) == (2, "")
    assert "orders: " in err
    status, out, err = await run(away, "--json")
    assert (status, out) == (2, "")
    assert "orders: " in json.loads(err)["error"]


async def test_an_event_with_an_id_of_a_slow_clock_is_found_if_it_is_not_received(
    chorus: Installation,
) -> None:
    """Its id is older than all that logs keep; when it was published is known by the database's clock."""
    url = chorus.database_admin_url("orders")
    await execute(
        url,
        "INSERT INTO event_log VALUES ($1, 'orders', 'order-placed.v1', now() - interval '5 minutes', 1, '')",
        SLOW,
    )
    try:
        status, out, _ = await run(environment(chorus))
        assert status == 1, out
        assert f"event {SLOW} differs: orders has events 1, billing has nothing" in out
    finally:
        await execute(url, "DELETE FROM event_log WHERE id = $1", SLOW)


@pytest.mark.parametrize(
    "fault",
    [
        asyncpg.InternalClientError("cannot switch to state 15"),
        asyncpg.InterfaceError("the connection is closed"),
        asyncpg.AdminShutdownError("terminated"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_a_fault_of_the_driver_means_that_the_database_is_unavailable(
    fault: Exception,
) -> None:
    """Watching goes on after it: it waits for nothing else."""

    class Cut:
        async def fetch(self, *_: Any, **__: Any) -> list[asyncpg.Record]:
            raise fault

    with pytest.raises(DatabaseUnavailableError, match="orders"):
        await Database("orders", Cut()).rows("SELECT 1")


async def test_a_missing_setting_ends_with_2(chorus: Installation) -> None:
    without = environment(chorus)
    del without["CHORUS_DATABASE_URL_ORDERS"]
    status, _, err = await run(without)
    assert status == 2
    assert "CHORUS_DATABASE_URL_ORDERS" in err


async def test_without_a_broker_the_queues_are_not_available(chorus: Installation) -> None:
    away = environment(chorus) | {"CHORUS_RABBITMQ_API_URL": "http://127.0.0.1:1"}
    status, out, err = await run(away)
    assert status == 0, err
    assert "queues not available" in out


@pytest.mark.parametrize("api", [True, False], ids=["management API", "AMQP"])
async def test_a_dead_lettered_message_is_found(chorus: Installation, api: bool) -> None:
    settings = environment(chorus)
    if not api:
        del settings["CHORUS_RABBITMQ_API_URL"]
    broker = Broker(chorus.amqp_admin_url)
    await broker.open()
    try:
        await broker.send(aio_pika.Message(b"malformed"), DEAD, "billing")

        async def found() -> None:
            status, out, _ = await run(settings)
            assert status == 1
            assert "1 messages lie in billing.dead" in out

        await eventually(found)
    finally:
        await broker.purge("billing.dead")
        await broker.close()


async def test_watching_serves_metrics_until_sigterm(chorus: Installation) -> None:
    port = private_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", "audit", "--watch=1", "--timeout=0.2", f"--port={port}",
        env=environment(chorus), stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(trust_env=False) as http:

            async def violations(count: float) -> None:
                try:
                    text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
                except httpx.TransportError as error:
                    raise AssertionError(repr(error)) from None
                figures = {
                    (sample.name, sample.labels.get("invariant")): sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                }
                assert figures.get(("chorus_audit_violations", "9")) == count
                assert figures["chorus_audit_violations", "1"] == 0
                assert figures["chorus_audit_last_success_timestamp_seconds", None] > 0

            await eventually(lambda: violations(0))
            async with an_invented_event(chorus):
                await eventually(lambda: violations(1))
            await eventually(lambda: violations(0))
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


SECRETS = {
    "users": ["SELECT password_hash FROM users", "SELECT * FROM key_pairs", "SELECT * FROM users"],
    "billing": ["SELECT * FROM idempotency_keys", "SELECT cloudevents FROM event_log"],
    "orders": ["SELECT * FROM idempotency_keys", "SELECT cloudevents FROM event_log"],
    "notifications": ["SELECT body FROM notifications", "SELECT cloudevents FROM event_log"],
}


@pytest.mark.parametrize("service", SERVICES)
async def test_its_login_reads_no_secret_and_changes_nothing(
    chorus: Installation, service: str
) -> None:
    connection = await asyncpg.connect(chorus.auditor_url(service))
    try:
        assert await connection.fetchval("SELECT count(*) FROM inbox") is not None
        await connection.execute("SET default_transaction_read_only = off")
        for sql in (*SECRETS.get(service, ()), "DELETE FROM inbox", "CREATE TABLE mine (id int)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
    finally:
        await connection.close()


async def test_its_login_has_no_access_to_another_service(chorus: Installation) -> None:
    url = chorus.auditor_url("orders")
    other = url.rpartition("/")[0] + "/" + chorus.login("billing")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(other)


async def test_its_login_at_the_broker_can_only_monitor(chorus: Installation) -> None:
    urls = chorus.servers.amqp_url(f"{chorus.name}_auditor", chorus.password, chorus.name)
    broker = Broker(urls)
    await broker.open()
    try:
        with pytest.raises(Exception, match="ACCESS_REFUSED"):
            await broker.take("billing.dead")
    finally:
        await broker.close()
