"""Billing, restored to an earlier moment, decides otherwise than before: a correction follows what was written."""

from uuid_utils.compat import uuid7

from apps.notifications.models import Notification
from chassis.database.tables import statements
from events.users import UserRegistered
from tests.support.builders import (
    a_user,
    an_order,
    outbox_row,
    payment_rejected,
    payment_succeeded,
)
from tests.support.contradicted import reported
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.notified import a_recipient, all_sent

CORRECTED_JOY = "Correction: Your order could not be paid: 30.00 EUR"
CORRECTED_SORROW = "Correction: Your order is paid: 30.00 EUR"


async def test_another_outcome_is_written_as_a_correction(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    await notifications.processes(payment_succeeded(order))
    with reported("notifications") as entries:
        await notifications.processes(payment_rejected(order))
    [entry] = entries
    assert (entry["order_id"], entry["received"], entry["taken_as"]) == (
        str(order.id), "sorrow", "correction"
    )  # fmt: skip
    correction, joy = await all_sent(notifications, ada, 2)
    assert (joy["kind"], correction["kind"]) == ("joy", "sorrow")
    assert correction["subject"] == CORRECTED_JOY
    first, second = await mail.gets(ada.email, 2)
    assert (first.subject, second.subject) == (joy["subject"], CORRECTED_JOY)
    assert "e-mail about this order was wrong" in second.text


async def test_each_further_outcome_corrects_the_one_before(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    with reported("notifications", 2):
        for outcome in (payment_rejected, payment_succeeded, payment_succeeded, payment_rejected):
            await notifications.processes(outcome(order))
    items = await all_sent(notifications, ada, 3)
    assert [item["subject"] for item in items] == [
        CORRECTED_JOY, CORRECTED_SORROW, "Your order could not be paid: 30.00 EUR"
    ]  # fmt: skip
    assert len(await mail.gets(ada.email, 3)) == 3


async def test_an_earlier_outcome_that_arrives_late_is_reported_and_not_written(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    late = payment_succeeded(order)
    await notifications.processes(payment_rejected(order))
    with reported("notifications") as entries:
        await notifications.processes(late)
    assert [entry["taken_as"] for entry in entries] == ["outdated"]
    [item] = await all_sent(notifications, ada, 1)
    assert item["kind"] == "sorrow"
    await mail.gets(ada.email, 1)


async def test_an_outcome_between_two_that_agree_is_outdated(
    notifications: RunningService,
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    first, between, last = (
        outbox_row(outcome(order))
        for outcome in (payment_succeeded, payment_rejected, payment_succeeded)
    )
    with reported("notifications") as entries:
        for row in (first, last, between):
            await notifications.processes(row)
    assert [entry["taken_as"] for entry in entries] == ["outdated"]
    assert [item["kind"] for item in await all_sent(notifications, ada, 1)] == ["joy"]


COPY = """
INSERT INTO notifications SELECT (jsonb_populate_record(n, jsonb_build_object('id', $1::uuid, 'order_id', $2::uuid))).*
FROM notifications n WHERE order_id = $3
"""


async def test_outcomes_that_arrive_at_once_make_one_notification_and_its_correction(
    notifications: RunningService,
) -> None:
    """Each has a queue of its own: a replica does not see what another one is writing."""
    ada = await a_recipient(notifications)
    order, before = an_order(user=ada), an_order(user=ada)
    await notifications.processes(payment_succeeded(before))
    await all_sent(notifications, ada, 1)
    async with notifications.meanwhile() as replica:
        await replica.execute(COPY, uuid7(), order.id, before.id)
        rejected = await notifications.receives(payment_rejected(order))
        await notifications.is_blocked()
    await notifications.has_processed(*rejected)
    sql = "SELECT kind, correction FROM notifications WHERE order_id = $1 ORDER BY correction"
    assert await notifications.rows(sql, order.id) == [("joy", 0), ("sorrow", 1)]


async def test_a_correction_waits_for_what_it_corrects(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    with mail.replying("451 later", to=ada.email):
        await notifications.processes(payment_succeeded(order))
        await notifications.processes(payment_rejected(order))
        deferred = "SELECT correction FROM notifications WHERE user_id = $1 AND attempts > 0"

        async def joy_is_deferred() -> None:
            assert [row[0] for row in await notifications.rows(deferred, ada.id)] == [0]

        await eventually(joy_is_deferred)
        assert mail.asked[ada.email] > 0
    await all_sent(notifications, ada, 2)
    first, second = await mail.gets(ada.email, 2)
    assert (first.subject, second.subject) == ("Your order is paid: 30.00 EUR", CORRECTED_JOY)


async def test_both_wait_for_their_recipient(notifications: RunningService, mail: MailSink) -> None:
    ada = a_user()
    order = an_order(user=ada)
    await notifications.processes(payment_succeeded(order))
    await notifications.processes(payment_rejected(order))
    await notifications.processes(UserRegistered(user=ada))
    await all_sent(notifications, ada, 2)
    first, second = await mail.gets(ada.email, 2)
    assert (first.subject, second.subject) == ("Your order is paid: 30.00 EUR", CORRECTED_JOY)


async def test_notifications_about_an_order_are_found_by_index(
    notifications: RunningService,
) -> None:
    """With a plan for any keys, as a service has."""
    select = statements(Notification).select("order_id", lock=False)
    async with notifications.service.database.pool.acquire() as connection:
        await connection.execute(f"PREPARE about(uuid[]) AS {select}")
        plan = await connection.fetch("EXPLAIN EXECUTE about(ARRAY[gen_random_uuid()])")
        await connection.execute("DEALLOCATE about")
    assert "notifications_once" in "".join(row[0] for row in plan)
