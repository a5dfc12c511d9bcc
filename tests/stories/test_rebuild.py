"""A service's copies of others' data are spoiled: the audit finds it, and `chorus rebuild` makes them right again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import pytest
from typer.testing import CliRunner

from apps import SERVICES
from apps.orders.models import Order
from apps.users.models import User
from events.base import Event
from events.orders import OrderCancelled, OrderPaid, OrderPlaced, OrderRejected
from events.users import UserRegistered, UserUpdated
from ops.audit import audit
from ops.main import cli
from ops.projections import PROJECTIONS
from tests.stories.customers import Customer
from tests.stories.stack import Stack
from tests.stories.test_operator_slips import orders_of_all_kinds, republish
from tests.support.eventually import eventually
from tests.support.installation import environment

ORDER_EVENTS: Final = (OrderPlaced, OrderPaid, OrderRejected, OrderCancelled)

NO_KEY: Final = "DELETE FROM signing_keys"
SPOILED: Final = {
    "users": [NO_KEY],
    "billing": [
        NO_KEY,
        "DELETE FROM holders",
        "DELETE FROM holders WHERE id = $1",
        "UPDATE holders SET version = 0",
        "UPDATE holders SET version = 99",
        "INSERT INTO holders VALUES (gen_random_uuid(), 1)",
        f"INSERT INTO holders VALUES ('{UUID(int=0)}', 1)",
    ],
    "orders": [
        NO_KEY,
        "UPDATE signing_keys SET x = 'AAAA'",
        "INSERT INTO signing_keys VALUES ('invented', 'x', now() + interval '1 day')",
        "DELETE FROM customers",
        "UPDATE customers SET version = 99",
    ],
    "notifications": [
        NO_KEY,
        "DELETE FROM recipients",
        "UPDATE recipients SET name = 'Eve'",
        "UPDATE recipients SET name = 'Eve', version = version - 1",
        "UPDATE recipients SET version = 99",
    ],
}
"""What is done to the copies of each service: rows go, are older, newer, other ones, or nobody's."""


pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def chorus(commanded: Stack) -> Stack:
    return commanded


@pytest.fixture
async def ada(chorus: Stack) -> AsyncIterator[Customer]:
    """A customer who has changed their name, in a system that is at rest."""
    ada = await chorus.customer(deposit="100.00")
    await orders_of_all_kinds(chorus)
    change = await ada.ask("users", "PATCH", f"/user/{ada.id}", {"name": "Ada King"})
    assert change.status_code == 200, change.text
    await chorus.is_quiet()
    yield ada
    await chorus.is_quiet()


async def rebuild(chorus: Stack, *arguments: str, status: int = 0) -> str:
    with environment(chorus.installation.environment):
        result = await asyncio.to_thread(CliRunner().invoke, cli, ["rebuild", *arguments])
    assert result.exit_code == status, result.output
    return result.stdout


async def violated(chorus: Stack) -> set[int]:
    return set((await audit(chorus.urls, timeout_seconds=1)).violated)


async def copies(chorus: Stack, service: str) -> dict[str, Any]:
    """All that a service has copied, and which events it has processed."""
    tables = [one.name for one in PROJECTIONS if one.service == service]
    found: dict[str, Any] = {
        table: await chorus.rows(service, f"SELECT * FROM {table} ORDER BY 1") for table in tables
    }
    return found | {"inbox": sorted(await chorus.inbox(service))}


async def effects(chorus: Stack) -> list[int]:
    """How many events are published, and how many e-mails and notifications there are."""
    published = [await chorus.value(s, "SELECT sum(events) FROM event_log") for s in SERVICES]
    return [
        *published,
        len(chorus.mail.emails),
        await chorus.value("notifications", "SELECT count(*) FROM notifications"),
    ]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_spoiled_projection_equals_its_owner_again(
    chorus: Stack, ada: Customer, service: str
) -> None:
    right, before = await copies(chorus, service), await effects(chorus)
    for spoiling in SPOILED[service]:
        await chorus.rows(service, spoiling, *([ada.id] if "$1" in spoiling else []))
        assert 7 in await violated(chorus), spoiling
        spoiled = await copies(chorus, service)
        await rebuild(chorus, service, "--dry-run")
        assert await copies(chorus, service) == spoiled, "a dry run changes nothing"

        assert "equals the state of users" in await rebuild(chorus, service)

        assert await copies(chorus, service) == right, spoiling
        assert await violated(chorus) == set()
    assert await effects(chorus) == before


def test_every_projection_is_spoiled() -> None:
    spoiled = {
        (service, word) for service in SPOILED for sql in SPOILED[service] for word in sql.split()
    }
    assert {(one.service, one.name) for one in PROJECTIONS} <= spoiled


@pytest.mark.parametrize("service", SERVICES)
async def test_rebuilding_what_is_right_changes_nothing(
    chorus: Stack, ada: Customer, service: str
) -> None:
    tables = [one.name for one in PROJECTIONS if one.service == service]
    rows = "SELECT ctid::text, xmin::text FROM {} ORDER BY 1"
    before = [await chorus.rows(service, rows.format(table)) for table in tables]
    printed = await rebuild(chorus, service)
    assert printed.count(" 0 mended") == 2 * len(tables)
    assert [await chorus.rows(service, rows.format(table)) for table in tables] == before


async def test_only_the_named_projection_is_rebuilt(chorus: Stack, ada: Customer) -> None:
    await chorus.rows("billing", "UPDATE holders SET version = 99")
    await rebuild(chorus, "billing", "--projection", "signing_keys")
    assert 7 in await violated(chorus)
    await rebuild(chorus, "billing", "--projection", "holders")
    assert await violated(chorus) == set()


async def test_events_that_were_lost_count_as_received_once_their_copies_are_made(
    chorus: Stack, ada: Customer
) -> None:
    await chorus.rows("orders", "DELETE FROM customers")
    await chorus.rows("orders", "DELETE FROM inbox WHERE source = 'users'")
    assert {7, 9} <= await violated(chorus)
    assert "customers" in await rebuild(chorus, "orders")
    assert await violated(chorus) == set()
    assert "no subscriber lacks" in await republish(chorus, "--missing")


async def test_an_event_that_opens_accounts_is_left_to_be_delivered(
    chorus: Stack, ada: Customer
) -> None:
    """Billing does more with it than to copy: a rebuild must not count it as received."""
    async with chorus.broker.withheld(UserRegistered, "billing"):
        bea = await chorus.customer()
        await chorus.journal.up_to_now()
        await rebuild(chorus, "billing")
        known = "SELECT count(*) FROM {} WHERE {} = $1"
        assert await chorus.value("billing", known.format("holders", "id"), bea.id) == 1
        assert await chorus.value("billing", known.format("accounts", "user_id"), bea.id) == 0
    await chorus.is_quiet()
    assert await chorus.value("billing", known.format("accounts", "user_id"), bea.id) == 1


async def test_snapshots_tell_what_was_published(chorus: Stack, ada: Customer) -> None:
    """For users with the state of now."""
    published: dict[str, list[Event]] = {}
    for received in chorus.journal.events(*ORDER_EVENTS, UserRegistered, UserUpdated):
        if received.id not in chorus.republished:
            published.setdefault(received.event.subject, []).append(received.event)
    orders = [Order(**row) for row in await chorus.rows("orders", "SELECT * FROM orders")]
    assert {order.status for order in orders} >= {"paid", "rejected", "cancelled"}
    for order in orders:
        assert order.history() == sorted(
            published[str(order.id)], key=lambda event: vars(event)["order"].version
        )
    for user in [User(**row) for row in await chorus.rows("users", "SELECT * FROM users")]:
        assert {type(e) for e in user.history()} == {type(e) for e in published[str(user.id)]}
        assert user.history()[-1] in published[str(user.id)]


async def test_a_revoked_key_is_not_brought_back(chorus: Stack, ada: Customer) -> None:
    """The event log of users still has the event that published it."""
    published = "SELECT count(*) FROM event_log WHERE routing_key = 'signing-key-published.v1'"
    assert await chorus.value("users", published)
    [pair] = await chorus.rows("users", "DELETE FROM key_pairs RETURNING *")

    async def replaced() -> None:
        assert await chorus.value("users", "SELECT count(*) FROM key_pairs") == 1

    try:
        await eventually(replaced)
        await rebuild(chorus, "orders", "--projection", "signing_keys", status=1)
        [other] = await chorus.rows("users", "SELECT key_id FROM key_pairs")
        assert await chorus.rows("orders", "SELECT key_id FROM signing_keys") == [other]
        assert other["key_id"] != pair["key_id"]
    finally:
        await chorus.rows("users", "INSERT INTO key_pairs VALUES ($1, $2, $3, $4)", *pair.values())
        await rebuild(chorus, "orders")


async def test_a_notification_that_waits_for_a_missing_recipient_is_sent(
    chorus: Stack, ada: Customer
) -> None:
    await chorus.rows("notifications", "DELETE FROM recipients WHERE id = $1", ada.id)
    order = await ada.order("10.00")
    waiting = "SELECT count(*) FROM notifications WHERE status = 'waiting' AND order_id = $1"

    async def waits() -> None:
        assert await chorus.value("notifications", waiting, order) == 1

    await eventually(waits)
    await rebuild(chorus, "notifications")
    await chorus.is_quiet()
    assert await chorus.value("notifications", waiting, order) == 0


async def test_customers_notice_nothing_of_a_rebuild(chorus: Stack, ada: Customer) -> None:
    """Users change, orders are placed, and no reader sees a projection without its rows."""
    ended = asyncio.Event()

    async def change_and_order() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            bea = await chorus.customer(deposit="5.00")
            change = {"name": f"Ada the {number}th"}
            for somebody in (ada, bea):
                answer = await somebody.ask("users", "PATCH", f"/user/{somebody.id}", change)
                assert answer.status_code == 200, answer.text
            await bea.order("1.00")
            assert (await bea.ask_for_order("1.00", Prefer="wait=10")).status_code == 201

    async def read() -> None:
        while not ended.is_set():
            known = "SELECT count(*) FROM recipients WHERE id = $1"
            assert await chorus.value("notifications", known, ada.id) == 1
            assert await chorus.value("billing", known.replace("recipients", "holders"), ada.id)

    busy = [asyncio.create_task(one()) for one in (change_and_order, change_and_order, read)]
    try:
        for service in ("billing", "orders", "notifications") * 3:
            await rebuild(chorus, service)
    finally:
        ended.set()
        await asyncio.gather(*busy)
    await chorus.is_quiet()
    assert await violated(chorus) == set()


@pytest.mark.parametrize(
    "arguments", [[], ["nobody"], ["billing", "--projection", "accounts"], ["orders", "--all"]]
)
def test_a_wrong_command_line_rebuilds_nothing(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, ["rebuild", *arguments]).exit_code == 2
