"""Retention purges old rows and keeps the others, on tables with a million rows."""

import asyncio

import pytest

from chassis.database.transaction import transaction
from chassis.messaging.topology import CONSUMER_TIMEOUT_MILLISECONDS, JOURNAL_AGE
from chassis.runtime import retention
from tests.support.builders import a_user
from tests.support.eventually import eventually
from tests.support.harness import RunningService

ROWS = 1_000_000
RECEIVED = """
INSERT INTO inbox SELECT gen_random_uuid(), 'users', 1, now() - make_interval(days => $1::int)
FROM generate_series(1, $2::int)
"""


async def purge_old(service: RunningService, table: str) -> None:
    """Run the service's purge task until a table holds no rows beyond their age."""
    task = asyncio.create_task(retention.purge_periodically(service.service.database.pool, 7))
    try:

        async def purged() -> bool:
            age = retention.TABLES[table][1]
            column = {"inbox": "received_at", "idempotency_keys": "created_at"}[table]
            old = f"SELECT EXISTS (SELECT FROM {table} WHERE {column} < now() - $1::interval)"
            return not await service.value(old, age)

        await eventually(purged, within=90)
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_of_a_million_inbox_rows_only_the_old_are_purged(
    orders: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0)
    known = await orders.value("SELECT count(*) FROM inbox")
    await orders.database.execute(RECEIVED, 36, ROWS - 1000, timeout=60)
    await orders.database.execute(RECEIVED, 34, 1000)
    async with transaction(orders.service.database.pool) as tx:
        assert await retention.purge(tx, ["inbox"]) == [5_000], (
            "a limited number of rows for each transaction"
        )
    await purge_old(orders, "inbox")
    assert await orders.value("SELECT count(*) FROM inbox") == known + 1000


async def test_an_idempotency_key_is_kept_for_a_week(billing: RunningService) -> None:
    user = a_user()
    headers = {"Idempotency-Key": "again"}
    path, body = f"/account/{user.id}/deposit", {"amount": "1.00"}
    age = "UPDATE idempotency_keys SET created_at = created_at - $1::interval WHERE user_id = $2"
    async with billing.http(user) as ada:
        first = await ada.post(path, json=body, headers=headers)
        await billing.database.execute(age, retention.KEYS_AGE * 0.99, user.id)
        await purge_old(billing, "idempotency_keys")
        again = await ada.post(path, json=body, headers=headers)
        assert (again.text, again.headers["Idempotent-Replayed"]) == (first.text, "true")
        await billing.database.execute(age, retention.KEYS_AGE * 0.02, user.id)
        await purge_old(billing, "idempotency_keys")
        anew = await ada.post(path, json=body, headers=headers)
    assert anew.json()["balance"] == "2.00"


async def test_event_log_partitions_that_cannot_be_made_show_in_a_metric(
    billing: RunningService,
) -> None:
    pool = billing.service.database.pool
    await billing.database.execute("ALTER FUNCTION make_event_log_partitions RENAME TO renamed")
    try:
        await retention.keep_event_log(pool, 7)
    finally:
        await billing.database.execute("ALTER FUNCTION renamed RENAME TO make_event_log_partitions")
    assert retention.POSTPONED._value.get() == 1
    await retention.keep_event_log(pool, 7)
    assert retention.POSTPONED._value.get() == 0


def test_inbox_rows_outlive_every_possible_redelivery() -> None:
    assert retention.INBOX_AGE.total_seconds() > CONSUMER_TIMEOUT_MILLISECONDS / 1000
    assert retention.INBOX_AGE.days > int(JOURNAL_AGE.removesuffix("D"))
