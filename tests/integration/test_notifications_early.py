"""Letters that come before their recipient wait, and go out once."""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from uuid_utils.compat import uuid7

from apps.notifications import use_cases
from chassis.database.transaction import begin
from events.base import Causation, Envelope, Event
from events.billing import PaymentSucceeded
from events.users import UserRegistered, UserState, UserUpdated
from tests.support.builders import a_user, an_order, now, payment_succeeded
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.letters import all_sent, listed
from tests.support.mail import MailSink

E = TypeVar("E", bound=Event)


async def test_a_letter_waits_for_its_recipient_and_goes_out_once(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user(name="Ada")
    order = an_order(user=ada)
    await notifications.hears(payment_succeeded(order))
    [letter] = await listed(notifications, ada.id, status="waiting")
    assert (letter["to"], letter["subject"], letter["body"]) == (None, None, None)
    await notifications.hears(UserRegistered(user=ada))
    [sent] = await all_sent(notifications, ada, 1)
    assert sent["notificationId"] == letter["notificationId"]
    assert (sent["to"], sent["subject"]) == (ada.email, "Your order is paid: 30.00 EUR")
    await notifications.hears(UserUpdated(user=a_user(id=ada.id, version=2)))
    await mail.gets(ada.email)


async def test_an_update_that_overtakes_the_registration_releases_letters_as_well(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = a_user()
    await notifications.hears(*(payment_succeeded(an_order(user=ada)) for _ in range(3)))
    newer = a_user(id=ada.id, email=f"new-{ada.email}", version=2)
    await notifications.hears(UserUpdated(user=newer))
    await notifications.hears(UserRegistered(user=ada))
    await all_sent(notifications, ada, 3)
    await mail.gets(newer.email, 3)


def received(event: E) -> Envelope[E]:
    return Envelope(uuid7(), event, now(), Causation("flow-race"))


async def _write(notifications: RunningService, events: Sequence[PaymentSucceeded]) -> None:
    async with begin(notifications.service.database.pool) as tx:
        await use_cases.write_joy(tx, [received(event) for event in events])


async def _remember(notifications: RunningService, *users: UserState) -> None:
    async with begin(notifications.service.database.pool) as tx:
        await use_cases.store_recipients(
            tx, [received(UserRegistered(user=user)) for user in users]
        )


async def test_a_recipient_who_becomes_known_while_a_letter_is_written_gets_it(
    notifications: RunningService,
) -> None:
    ada = a_user()
    async with begin(notifications.service.database.pool) as tx:
        paid = payment_succeeded(an_order(user=ada))
        await use_cases.write_joy(tx, [received(paid)])
        remembering = asyncio.create_task(_remember(notifications, ada))
        done, _ = await asyncio.wait([remembering], timeout=0.3)
        assert not done, "it must wait for the letter's commit, or it would not see it"
    await remembering
    await all_sent(notifications, ada, 1)


async def test_a_letter_that_is_written_while_its_recipient_becomes_known_reaches_him(
    notifications: RunningService,
) -> None:
    ada = a_user()
    async with begin(notifications.service.database.pool) as tx:
        await use_cases.store_recipients(tx, [received(UserRegistered(user=ada))])
        paid = payment_succeeded(an_order(user=ada))
        writing = asyncio.create_task(_write(notifications, [paid]))
        done, _ = await asyncio.wait([writing], timeout=0.3)
        assert not done, "it must wait for the recipient's commit, or it would not see him"
    await writing
    await all_sent(notifications, ada, 1)


async def test_letters_and_recipients_that_come_at_once_in_any_order_never_miss_each_other(
    notifications: RunningService,
) -> None:
    users = [a_user() for _ in range(40)]
    paid = [payment_succeeded(an_order(user=user)) for user in users]
    await asyncio.gather(
        *(_write(notifications, paid[n::4]) for n in range(4)),
        *(_remember(notifications, *users[::-1][n::4]) for n in range(4)),
    )
    sent = "SELECT count(*) FROM notifications WHERE user_id = ANY($1) AND status = 'sent'"

    async def all_arrived() -> None:
        assert await notifications.value(sent, [user.id for user in users]) == 40

    await eventually(all_arrived)
    await notifications.is_quiet()
