"""A database is restored to a moment before the others: after the runbook's procedure nothing answered is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import pytest
from pwdlib.hashers.argon2 import Argon2Hasher
from typer.testing import CliRunner

from apps import SERVICES
from ops.audit import audit
from ops.main import cli
from tests.stories.customers import PASSWORD, Customer
from tests.stories.stack import Stack
from tests.support.installation import environment

PAGES: Final = (
    ("users", "/user/view/{id}"),
    ("billing", "/account/{id}"),
    ("billing", "/account/{id}/transactions?limit=100"),
    ("orders", "/order?limit=100"),
    ("notifications", "/notification?limit=100"),
)
"""Everything that a customer sees."""

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def chorus(commanded: Stack) -> Stack:
    return commanded


async def command(chorus: Stack, *arguments: str, status: int = 0) -> str:
    with environment(chorus.installation.environment):
        result = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
    assert result.exit_code == status, result.output
    return result.output


async def seen(customers: Sequence[Customer]) -> list[Any]:
    return [
        await customer.sees(service, page.format(id=customer.id))
        for customer in customers
        for service, page in PAGES
    ]


@asynccontextmanager
async def away(chorus: Stack, service: str) -> AsyncIterator[asyncpg.Connection]:
    """An administrator's connection to the server; nothing of the tests is connected to the service's database."""
    await chorus.databases[service].close()
    administrator = await asyncpg.connect(chorus.installation.servers.database_admin_url)
    try:
        yield administrator
    finally:
        await administrator.close()
        await chorus.open_database(service)


async def restore(chorus: Stack, service: str) -> None:
    """The service ends as if its machine had gone, and the backup takes the place of its database."""
    chorus[service].kill()
    login = chorus.installation.login(service)
    async with away(chorus, service) as administrator:
        await administrator.execute(f"ALTER ROLE {login} NOLOGIN")
        await administrator.execute(f"DROP DATABASE {login} WITH (FORCE)")
        await administrator.execute(f"ALTER DATABASE {login}_backup RENAME TO {login}")


async def back_up(chorus: Stack, service: str) -> None:
    assert await chorus[service].stop() == 0
    login = chorus.installation.login(service)
    async with away(chorus, service) as administrator:
        await administrator.execute(f"CREATE DATABASE {login}_backup TEMPLATE {login}")
    await chorus.heal()


async def answered_requests(chorus: Stack, ada: Customer) -> list[Customer]:
    """Requests of every kind, all answered and settled: of a customer and of a new one."""
    await ada.deposit("50.00")
    assert (await ada.withdraw("20.00")).status_code == 201
    bea = await chorus.customer("Bea", "ru", deposit="9.00")
    await ada.settled(await ada.order("90.00"))
    await ada.settled(await ada.order("500.00"))
    await ada.deposit("40.00")
    cancelled = await ada.order("25.00")
    await ada.settled(cancelled)
    assert (await ada.cancel(cancelled)).status_code == 200
    await bea.settled(await bea.order("5.00"))
    await ada.change(name="Augusta", locale="ru")
    operator = await chorus.operator()
    message = {"userId": str(bea.id), "subject": "Hello", "body": "It is on its way."}
    sent = await operator.ask("notifications", "POST", "/notification/send", message)
    assert sent.status_code == 202
    await chorus.is_quiet()
    return [ada, bea]


async def finds_its_loss(chorus: Stack) -> None:
    found = await audit(chorus.urls, at_rest=True, timeout_seconds=1)
    assert 9 in found.violated, "the audit finds what is lost"


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_restored_to_a_moment_before_the_others_loses_nothing_answered(
    chorus: Stack, service: str
) -> None:
    journal = "republish", "--from-journal", "--since", datetime.now(UTC).isoformat()
    ada = await chorus.customer(deposit="100.00")
    await ada.settled(await ada.order("30.00"))
    await back_up(chorus, service)
    customers = await answered_requests(chorus, ada)
    before, letters = await seen(customers), len(chorus.mail.emails)

    await restore(chorus, service)
    await finds_its_loss(chorus)
    assert f"{service}: 0 events" not in await command(chorus, *journal, "--dry-run")
    printed = await command(chorus, *journal, "--service", service)
    assert f"{service}: 0 events" in await command(chorus, *journal, "--service", service)
    await command(chorus, "republish", "--missing")
    await command(chorus, "migrate")
    await chorus.heal()
    await chorus.is_quiet()

    await command(chorus, "audit", "--at-rest")
    assert await seen(customers) == before, "every answer is still true"
    assert len(chorus.mail.emails) == letters, "no letter was sent again"
    if service == "users":
        await gets_a_password(chorus, customers[1], printed)


async def gets_a_password(chorus: Stack, bea: Customer, printed: str) -> None:
    """No event has the password of a user who was registered since: they are named, and cannot sign in without one."""
    named = [line for line in printed.splitlines() if line.endswith("the password is lost")]
    assert [str(bea.id) in line for line in named] == [True]
    with pytest.raises(AssertionError, match="invalid_credentials"):
        await bea.sign_in()
    password_hash = Argon2Hasher().hash(PASSWORD)
    sql = "UPDATE users SET password_hash = $1 WHERE id = $2 AND password_hash = 'lost'"
    await chorus.rows("users", sql, password_hash, bea.id)
    await bea.sign_in()


async def test_repair_names_a_service_that_runs_and_completes_it_once_it_is_stopped(
    chorus: Stack,
) -> None:
    repair = "repair", "--at-rest", "--since", datetime.now(UTC).isoformat()
    ada = await chorus.customer(deposit="100.00")
    await back_up(chorus, "orders")
    customers = await answered_requests(chorus, ada)
    before, letters = await seen(customers), len(chorus.mail.emails)
    await restore(chorus, "orders")
    await command(chorus, "migrate")
    await chorus.heal()
    await finds_its_loss(chorus)

    assert "orders runs and has lost events" in await command(chorus, *repair, status=1)
    await finds_its_loss(chorus)
    assert await chorus["orders"].stop() == 0
    printed = await command(chorus, *repair, status=1)
    assert "orders.payment-succeeded: 3 events were published" in printed, "it does not run yet"
    await chorus.heal()
    await chorus.is_quiet()
    await command(chorus, *repair)
    assert await seen(customers) == before, "every answer is still true"
    assert len(chorus.mail.emails) == letters, "no letter was sent again"
