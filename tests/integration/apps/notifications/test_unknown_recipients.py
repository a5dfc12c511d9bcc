"""Notifications that are created before their recipient is known."""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from uuid_utils.compat import uuid7

from apps.notifications import use_cases
from chassis.database.transaction import transaction
from events.base import Causation, Envelope, Event
from events.billing import PaymentSucceeded
from events.users import UserRegistered, UserState, UserUpdated
from tests.support.builders import a_user, an_order, now, payment_succeeded
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.notified import all_sent, listed

E = TypeVar("E", bound=Event)


async def test_a_notification_waits_for_its_recipient_and_is_sent_once(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user(name="Ada")
    order = an_order(user=ada)
    await notifications.processes(payment_succeeded(order))
    [item] = await listed(notifications, ada.id, status="waiting")
    assert (item["to"], item["subject"], item["body"]) == (None, None, None)
    await notifications.processes(UserRegistered(user=ada))
    [sent] = await all_sent(notifications, ada, 1)
    assert sent["notificationId"] == item["notificationId"]
    assert (sent["to"], sent["subject"]) == (ada.email, "Your order is paid: 30.00 EUR")
    await notifications.processes(UserUpdated(user=a_user(id=ada.id, version=2)))
    await mail.gets(ada.email)


async def test_an_update_that_overtakes_the_registration_releases_notifications(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user()
    await notifications.processes(*(payment_succeeded(an_order(user=ada)) for _ in range(3)))
    newer = a_user(id=ada.id, email=f"new-{ada.email}", version=2)
    await notifications.processes(UserUpdated(user=newer))
    await notifications.processes(UserRegistered(user=ada))
    await all_sent(notifications, ada, 3)
    await mail.gets(newer.email, 3)


def received(event: E) -> Envelope[E]:
    return Envelope(uuid7(), event, now(), Causation("flow-race"))


async def _notify(notifications: RunningService, events: Sequence[PaymentSucceeded]) -> None:
    async with transaction(notifications.service.database.pool) as tx:
        await use_cases.notify_of_payments(tx, [received(event) for event in events])


async def _save(notifications: RunningService, *users: UserState) -> None:
    async with transaction(notifications.service.database.pool) as tx:
        await use_cases.save_recipients(tx, [received(UserRegistered(user=user)) for user in users])


async def test_a_recipient_stored_during_the_creation_of_a_notification_gets_it(
    notifications: RunningService,
) -> None:
    ada = a_user()
    async with transaction(notifications.service.database.pool) as tx:
        paid = payment_succeeded(an_order(user=ada))
        await use_cases.notify_of_payments(tx, [received(paid)])
        saving = asyncio.create_task(_save(notifications, ada))
        done, _ = await asyncio.wait([saving], timeout=0.3)
        assert not done, "it must wait for the notification's commit, or it would not see it"
    await saving
    await all_sent(notifications, ada, 1)


async def test_a_notification_created_while_its_recipient_is_stored_is_sent(
    notifications: RunningService,
) -> None:
    ada = a_user()
    async with transaction(notifications.service.database.pool) as tx:
        await use_cases.save_recipients(tx, [received(UserRegistered(user=ada))])
        paid = payment_succeeded(an_order(user=ada))
        notifying = asyncio.create_task(_notify(notifications, [paid]))
        done, _ = await asyncio.wait([notifying], timeout=0.3)
        assert not done, (
            "it must wait for the recipient's commit, or it would not see the recipient"
        )
    await notifying
    await all_sent(notifications, ada, 1)


async def test_concurrent_notifications_and_recipients_never_miss_each_other(
    notifications: RunningService,
) -> None:
    users = [a_user() for _ in range(40)]
    paid = [payment_succeeded(an_order(user=user)) for user in users]
    await asyncio.gather(
        *(_notify(notifications, paid[n::4]) for n in range(4)),
        *(_save(notifications, *users[::-1][n::4]) for n in range(4)),
    )
    sent = "SELECT count(*) FROM notifications WHERE user_id = ANY($1) AND status = 'sent'"

    async def all_sent_once() -> None:
        assert await notifications.value(sent, [user.id for user in users]) == 40

    await eventually(all_sent_once)
    await notifications.is_quiet()
