"""Two releases at the same time: statements of the previous one run on today's tables, and its events are processed."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from apps import SERVICES
from events.base import Event
from events.money import to_minor
from ops.subscriptions import SUBSCRIPTIONS
from tests.contracts.goldens import Golden, compact, of
from tests.contracts.release import breaks, previous, schema
from tests.support.builders import outbox_row, with_body
from tests.support.fixtures import Install, Run
from tests.support.harness import RunningService
from tests.support.installation import Installation


@pytest.fixture(scope="module")
async def chorus(install_chorus: Install) -> Installation:
    return await install_chorus("previous_release")


@pytest.fixture
async def administrator(
    chorus: Installation, service: str
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A superuser whose changes are rolled back."""
    connection = await asyncpg.connect(chorus.database_admin_url(service))
    changes = connection.transaction()
    await changes.start()
    yield connection
    await changes.rollback()
    await connection.close()


async def refused(
    connection: "asyncpg.Connection[asyncpg.Record]", statements: list[str]
) -> list[str]:
    """The statements that PostgreSQL rejects, each with its error."""
    found = []
    for sql in statements:
        nulls = ", ".join(["NULL"] * max((int(n) for n in re.findall(r"\$(\d+)", sql)), default=0))
        try:
            async with connection.transaction():
                await connection.execute(f"PREPARE asked AS {sql}")
                await connection.execute(f"EXPLAIN EXECUTE asked{f'({nulls})' if nulls else ''}")
                await connection.execute("DEALLOCATE asked")
        except asyncpg.PostgresError as error:
            found.append(f"{error}: {sql}")
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_migrations_are_compatible_with_the_previous_release(
    chorus: Installation, service: str, administrator: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    before = previous(service)
    assert breaks(before, await schema(administrator, chorus.login(service))) == []


@pytest.mark.parametrize("service", SERVICES)
async def test_statements_of_the_previous_release_are_accepted(
    service: str, administrator: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    statements = previous(service)["statements"]
    assert len(statements) > 10
    assert await refused(administrator, statements) == []


@pytest.mark.parametrize("service", ["orders"])
async def test_a_migration_that_removes_something_is_found(
    chorus: Installation, service: str, administrator: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await administrator.execute("ALTER TABLE orders RENAME COLUMN total TO price")
    await administrator.execute("ALTER TABLE customers ADD COLUMN age integer NOT NULL")
    await administrator.execute(f"REVOKE INSERT ON orders FROM {chorus.login(service)}")
    before = previous(service)
    assert sorted(breaks(before, await schema(administrator, chorus.login(service)))) == [
        "customers.age is new and must be given",
        "no right any more: orders INSERT",
        "orders.price is new and must be given",
        "orders.total is gone",
    ]
    assert await refused(administrator, before["statements"])


PROCESSED = [
    (service, kind, golden)
    for service in SERVICES
    for kind in SUBSCRIPTIONS[service]
    for golden in of(kind)
]


@pytest.mark.parametrize(
    ("name", "kind", "golden"),
    PROCESSED,
    ids=[f"{name} receives {golden}" for name, _, golden in PROCESSED],
)
async def test_a_service_processes_events_of_another_release(
    running_service: Run, name: str, kind: type[Event], golden: Golden
) -> None:
    """As published by the previous release, and as the next may publish it, with unknown fields."""
    later = compact(json.loads(golden.body) | {"later": {"than": ["today"]}})
    service = await running_service(name)
    async with service.observed():
        if name == "orders" and "payment" in kind.key:
            await _places(service, json.loads(golden.body)["order"])
        rows = [with_body(outbox_row(golden.event()), body) for body in (golden.body, later)]
        await service.processes(*rows)
        await service.processes(*(outbox_row(golden.event()) for _ in range(2)), as_batch=True)


async def _places(orders: RunningService, order: dict[str, Any]) -> None:
    await orders.rows(
        "INSERT INTO orders (id, user_id, total, currency, status, placed_at, version)"
        " VALUES ($1, $2, $3, 'EUR', $4, now(), 1) ON CONFLICT (id) DO UPDATE SET status = $4",
        order["id"],
        order["userId"],
        to_minor(order["total"]),
        order["status"],
    )
