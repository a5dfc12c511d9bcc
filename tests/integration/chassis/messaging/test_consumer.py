"""A consumer applies each event once despite duplicates, and dead-letters alone an event that it cannot handle."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from chassis.messaging import message as wire
from chassis.messaging.outbox import Row
from events.billing import PaymentRejected, PaymentSucceeded
from events.orders import OrderPlaced
from events.users import UserRegistered, UserState
from tests.support.builders import a_user, an_order, outbox_row, with_body
from tests.support.harness import RunningService

DELAYS = (0.01, 0.02, 0.03)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chassis.messaging.retries.RETRY_DELAYS", DELAYS)


@pytest.fixture
async def rich(billing: RunningService) -> UserState:
    """A user with money for 1,000 orders at 1.00."""
    user = a_user()
    async with billing.http(user) as ada:
        answer = await ada.post(f"/account/{user.id}/deposit", json={"amount": 1000})
        assert answer.status_code == 201, answer.text
    return user


def orders_of(user: UserState, count: int) -> list[Row]:
    return [outbox_row(OrderPlaced(order=an_order(total="1.00", user=user))) for _ in range(count)]


def indigestible(user: UserState) -> Row:
    """A well-formed event that always fails: the ledger refuses an amount of zero."""
    return outbox_row(OrderPlaced(order=an_order(total="0.00", user=user)))


async def balance(billing: RunningService, user: UserState) -> int:
    cents: int = await billing.value("SELECT balance FROM accounts WHERE user_id = $1", user.id)
    return cents


async def paid(billing: RunningService, user: UserState) -> int:
    """Count the paid orders of a user; each has exactly one payment in the ledger."""
    count: int = await billing.value(
        "SELECT count(*) FROM charges WHERE user_id = $1 AND status = 'paid'", user.id
    )
    payments = await billing.value(
        "SELECT count(*) FROM transfers t JOIN accounts a ON a.id = t.account_id"
        " WHERE a.user_id = $1 AND kind = 'payment'",
        user.id,
    )
    assert payments == count
    return count


def assert_dead_lettered_whole(message: AbstractIncomingMessage, row: Row) -> None:
    """A dead-lettered message equals the event published as a single message."""
    whole = wire.to_message([row])
    assert message.body == whole.body or json.loads(message.body) == json.loads(whole.body)
    assert message.message_id == str(row.id)
    assert message.correlation_id == row.attributes["correlationid"]
    assert message.type == row.attributes["type"]
    assert message.app_id == row.exchange
    assert message.timestamp == row.occurred_at.replace(microsecond=0)
    assert {**message.headers, **whole.headers} == dict(message.headers)
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_a_failing_event_in_a_batch_of_64_is_dead_lettered_alone(
    billing: RunningService, rich: UserState
) -> None:
    rows = orders_of(rich, 64)
    rows[40] = indigestible(rich)
    await billing.receives(*rows, as_batch=True)
    [dead_letter] = await billing.dead_letters(1)
    await billing.has_processed(*(row for row in rows if row is not rows[40]))
    assert await paid(billing, rich) == 63
    assert len(billing.published_of(PaymentSucceeded)) == 63
    assert_dead_lettered_whole(dead_letter, rows[40])
    assert dead_letter.headers["dead_letter_queue"] == "billing.order-placed"
    assert dead_letter.headers["dead_letter_exchange"] == "orders"
    assert dead_letter.headers["dead_letter_routing_key"] == "order-placed.v1"
    assert dead_letter.headers["dead_letter_attempts"] == len(DELAYS) + 1
    assert "CheckViolationError" in str(dead_letter.headers["dead_letter_error"])
    assert "Traceback (most recent call last)" in str(dead_letter.headers["dead_letter_traceback"])
    assert "transfers_amount_check" in str(dead_letter.headers["dead_letter_traceback"])


async def test_a_malformed_event_in_a_message_batch_is_dead_lettered_alone(
    billing: RunningService, rich: UserState
) -> None:
    rows = orders_of(rich, 64)
    rows[0] = with_body(rows[0], '{"order":{"id":"not-an-id"}}')
    await billing.receives(*rows, as_batch=True)
    [dead_letter] = await billing.dead_letters(1)
    await billing.has_processed(*rows[1:])
    assert await paid(billing, rich) == 63
    assert_dead_lettered_whole(dead_letter, rows[0])
    assert dead_letter.headers["dead_letter_attempts"] == 1
    assert "ValidationError" in str(dead_letter.headers["dead_letter_error"])


async def test_an_event_that_always_fails_is_dead_lettered_after_its_attempts(
    billing: RunningService, rich: UserState
) -> None:
    before, bad, after = [orders_of(rich, 5), [indigestible(rich)], orders_of(rich, 5)]
    await billing.receives(*before, *bad, *after)
    [dead_letter] = await billing.dead_letters(1)
    assert_dead_lettered_whole(dead_letter, bad[0])
    assert dead_letter.headers["dead_letter_attempts"] == 4
    await billing.has_processed(*before, *after)
    assert await paid(billing, rich) == 10


@contextlib.asynccontextmanager
async def ledger_that_fails(
    billing: RunningService, times: int, sqlstate: str
) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Make the first inserts into the ledger fail. Yields a count of attempts: sequences are not rolled back."""
    async with billing.database.acquire() as connection:
        await connection.execute(f"""
            CREATE SEQUENCE tries;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                IF nextval('tries') <= {times} THEN
                    RAISE EXCEPTION 'not yet' USING ERRCODE = '{sqlstate}';
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER fail AFTER INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION fail();
        """)
        try:
            yield lambda: billing.value("SELECT last_value FROM tries")
        finally:
            await connection.execute("""
                DROP TRIGGER fail ON transfers; DROP FUNCTION fail; DROP SEQUENCE tries""")


async def test_an_event_that_fails_at_first_has_its_effect_once(
    billing: RunningService, rich: UserState
) -> None:
    async with ledger_that_fails(billing, times=3, sqlstate="P0001") as tries:
        await billing.processes(*orders_of(rich, 1))
        assert await tries() == 4
    assert await paid(billing, rich) == 1


async def test_transient_faults_do_not_count_as_attempts(
    billing: RunningService, rich: UserState
) -> None:
    more_than_attempts = len(DELAYS) + 2
    async with ledger_that_fails(billing, times=more_than_attempts, sqlstate="53300") as tries:
        await billing.processes(*orders_of(rich, 1))
        assert await tries() == more_than_attempts + 1
    assert await paid(billing, rich) == 1


def of_an_unknown_version(row: Row) -> aio_pika.Message:
    message = wire.to_message([row])
    message.headers["cloudEvents_specversion"] = "9.0"
    return message


MALFORMED = {
    "no JSON": aio_pika.Message(b"{", content_type="application/json"),
    "nothing": aio_pika.Message(b"", content_type="application/json"),
    "no UTF-8": aio_pika.Message(b"\xff\xfe", content_type="application/json"),
    "no event": aio_pika.Message(b"[1, 2]", content_type="application/json"),
    "no headers": aio_pika.Message(
        OrderPlaced(order=an_order()).model_dump_json().encode(), content_type="application/json"
    ),
    "a batch that is no array": aio_pika.Message(b'{"a": 1}', content_type=wire.BATCH),
    "an empty batch": aio_pika.Message(b"[]", content_type=wire.BATCH),
    "a batch of one megabyte": aio_pika.Message(
        b'[{"data": "' + b"x" * 2**20 + b'"}]', content_type=wire.BATCH
    ),
    "a batch of texts": aio_pika.Message(b'["a"]', content_type=wire.BATCH),
    "a batch with an endless id": aio_pika.Message(
        json.dumps([{"id": "1" * 300, "data": {}}]).encode(), content_type=wire.BATCH
    ),
    "a batch with half a character": aio_pika.Message(
        rb'[{"id": "\ud800", "type": "\udc00", "data": "\ud800"}]', content_type=wire.BATCH
    ),
    "a batch that is nested too deeply": aio_pika.Message(b"[" * 10**5, content_type=wire.BATCH),
    "an unknown version": of_an_unknown_version(outbox_row(OrderPlaced(order=an_order()))),
    "one megabyte": aio_pika.Message(b"x" * 2**20, content_type="text/plain"),
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_message_is_dead_lettered_at_once_with_its_reason(
    billing: RunningService, message: aio_pika.Message
) -> None:
    await billing.broker.send(message, "orders", OrderPlaced.key)
    [dead_letter] = await billing.dead_letters(1)
    assert dead_letter.body == message.body or json.loads(message.body) == [
        json.loads(dead_letter.body)
    ]
    assert dead_letter.message_id != "None"
    assert dead_letter.headers["dead_letter_attempts"] == 1
    assert dead_letter.headers["dead_letter_error"]
    assert await billing.broker.waiting("billing.order-placed") == 0


async def test_a_text_that_the_database_cannot_hold_is_dead_lettered_after_its_attempts(
    notifications: RunningService,
) -> None:
    row = outbox_row(UserRegistered(user=a_user(name="Ada\0Lovelace")))
    await notifications.receives(row)
    [dead_letter] = await notifications.dead_letters(1)
    assert_dead_lettered_whole(dead_letter, row)
    assert dead_letter.headers["dead_letter_attempts"] == 4


async def test_unknown_fields_are_ignored(billing: RunningService) -> None:
    user = a_user()
    row = outbox_row(UserRegistered(user=user))
    document = json.loads(row.data)
    document["user"]["shoeSize"] = 43
    document["later"] = {"more": True}
    await billing.processes(with_body(row, json.dumps(document)))
    assert await billing.value("SELECT version FROM holders WHERE id = $1", user.id) == 1


async def test_a_message_published_six_times_at_once_has_one_effect(
    billing: RunningService, rich: UserState
) -> None:
    rows = orders_of(rich, 50)
    await billing.processes(*(rows * 6))
    assert await paid(billing, rich) == 50
    assert await balance(billing, rich) == 950_00
    assert len(billing.published_of(PaymentSucceeded)) == 50


async def test_a_redelivered_message_batch_has_no_effect(
    billing: RunningService, rich: UserState
) -> None:
    rows = orders_of(rich, 64)
    await billing.processes(*rows, as_batch=True)
    await billing.processes(*reversed(rows), as_batch=True)
    await billing.processes(*rows[:10])
    assert await paid(billing, rich) == 64
    assert len(billing.published_of(PaymentSucceeded)) == 64


async def test_an_event_published_twice_under_two_ids_has_one_effect(
    billing: RunningService, rich: UserState
) -> None:
    """The business key rejects a duplicate that the inbox cannot detect: another event id, the same order."""
    order = an_order(total="1.00", user=rich)
    await billing.processes(OrderPlaced(order=order), OrderPlaced(order=order))
    assert await paid(billing, rich) == 1
    assert len(billing.published_of(PaymentSucceeded)) == 1


async def test_events_survive_the_end_of_all_database_connections(
    billing: RunningService,
    rich: UserState,
) -> None:
    rows = orders_of(rich, 400)
    for start in range(0, 400, 50):
        await billing.receives(*rows[start : start + 50])
        await billing.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
            billing.installation.login("billing"),
        )
    await billing.has_processed(*rows)
    assert await paid(billing, rich) == 400
    assert {event.order.id for event in billing.published_of(PaymentSucceeded)} == {
        UUID(row.attributes["subject"]) for row in rows
    }
    assert len(billing.published_of(PaymentRejected)) == 0
