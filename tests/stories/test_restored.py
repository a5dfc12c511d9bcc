"""A database is restored to a moment before the others: after the runbook's procedure nothing answered is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from pwdlib.hashers.argon2 import Argon2Hasher
from typer.testing import CliRunner

from apps import SERVICES
from chassis.messaging.outbox import GROUP
from ops.audit import audit
from ops.main import cli
from tests.stories.conftest import Stacks
from tests.stories.customers import PASSWORD, Customer
from tests.stories.stack import Stack
from tests.support.eventually import eventually
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


@pytest.fixture
async def own(commanded_stacks: Stacks) -> AsyncIterator[Stack]:
    """A stack that nobody uses afterwards: what billing has published twice contradicts itself for ever."""
    await commanded_stacks.drop()
    yield await commanded_stacks.take()
    await commanded_stacks.drop()


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


async def test_billing_that_decides_anew_before_it_is_recovered_is_followed_and_corrected(
    own: Stack,
) -> None:
    journal = "republish", "--from-journal", "--since", datetime.now(UTC).isoformat()
    ada, bea = await own.customer(deposit="100.00"), await own.customer("Bea", "ru")
    await bea.deposit("100.00")
    await back_up(own, "billing")
    await ada.deposit("50.00")
    assert (await bea.withdraw("60.00")).status_code == 201
    paid, rejected = await ada.order("120.00"), await bea.order("50.00")
    assert (await ada.settled(paid))["status"] == "paid"
    assert (await bea.settled(rejected))["status"] == "rejected"
    await own.is_quiet()

    await restore(own, "billing")
    await command(own, "migrate")
    await own.heal()
    await command(own, "republish", "--missing")  # and billing decides without what it has lost

    async def followed() -> None:
        assert (await ada.settled(paid))["status"] == "rejected"
        assert (await bea.settled(rejected))["status"] == "paid"

    await eventually(followed)
    await bea.deposit("100.00")
    await own.is_quiet()

    assert await own["billing"].stop() == 0
    printed = await command(own, *journal, "--service", "billing", status=1)
    refused = [line for line in printed.splitlines() if "is refused" in line]
    assert [line.split()[1] for line in sorted(refused)] == ["PaymentRejected", "PaymentSucceeded"]
    await own.heal()
    await command(own, "republish", "--missing")
    await own.is_quiet()

    await followed()
    assert (await ada.balance(), await bea.balance()) == ("150.00", "90.00")
    assert [e_mail.subject for e_mail in await ada.mail(2)] == [
        "Your order is paid: 120.00 EUR",
        "Correction: Your order could not be paid: 120.00 EUR",
    ]
    assert [e_mail.subject for e_mail in await bea.mail(2)] == [
        "Не удалось оплатить ваш заказ: 50,00 EUR",
        "Исправление: Ваш заказ оплачен: 50,00 EUR",
    ]
    for service in ("orders", "notifications"):
        count = await own.metric(own[service], "chorus_contradictions_total", service=service)
        assert count == 2
    await finds_only(own, [line.split()[2] for line in refused])


async def finds_only(chorus: Stack, events: Sequence[str]) -> None:
    """The audit finds nothing but that these events are not in their publisher's log."""
    report = await audit(chorus.urls, at_rest=True, timeout_seconds=1)
    found = {f.subject.id for one in report.invariants for f in one.findings if f.subject}
    assert report.violated == [9], report.lines()
    assert found == {UUID(int=UUID(event).int // GROUP * GROUP) for event in events}
