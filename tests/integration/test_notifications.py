"""What notifications promises of letters, on a real database, a real broker and a real SMTP server."""

import asyncio

from events.notifications import NotificationSent
from events.users import UserRegistered, UserUpdated
from tests.support.builders import (
    a_user,
    an_order,
    payment_refunded,
    payment_rejected,
    payment_succeeded,
    told,
)
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.letters import FIELDS, a_recipient, all_sent, listed
from tests.support.mail import MailSink


async def test_a_paid_order_makes_one_letter_of_joy_which_is_sent_and_told_of(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, name="Ada")
    order = an_order(user=ada, total="30.00")
    [row] = await notifications.hears(told(payment_succeeded(order), correlation_id="flow-joy"))
    [letter] = await all_sent(notifications, ada, 1)
    assert letter.keys() == FIELDS
    assert (letter["kind"], letter["orderId"], letter["to"]) == ("joy", str(order.id), ada.email)
    assert letter["subject"] == "Your order is paid: 30.00 EUR"
    [arrived] = await mail.gets(ada.email)
    assert (arrived.subject, arrived.recipients) == (letter["subject"], [ada.email])
    assert arrived.text.replace("\r\n", "\n").strip() == letter["body"]
    assert str(order.id) in arrived.html
    assert arrived.message["Message-ID"] == f"<{letter['notificationId']}@chorus.test>"
    [received] = [
        one for one in notifications.tap.received if isinstance(one.event, NotificationSent)
    ]
    assert (received.cause.correlation_id, received.cause.causation_id) == ("flow-joy", row.id)
    assert isinstance(received.event, NotificationSent)
    assert str(received.event.notification.id) == letter["notificationId"]
    assert received.event.notification.status == "sent"


async def test_each_outcome_has_its_letter(notifications: RunningService, mail: MailSink) -> None:
    ada = await a_recipient(notifications)
    poor, late, paid = (an_order(user=ada, total="30.00") for _ in range(3))
    await notifications.hears(
        payment_rejected(poor, balance="1.00"),
        payment_rejected(late, reason="order_cancelled"),
        payment_succeeded(paid),
        payment_refunded(paid),
    )
    letters = await all_sent(notifications, ada, 4)
    assert {(letter["orderId"], letter["kind"], letter["subject"]) for letter in letters} == {
        (str(poor.id), "sorrow", "Your order could not be paid: 30.00 EUR"),
        (str(late.id), "sorrow", "Your order was cancelled and not charged: 30.00 EUR"),
        (str(paid.id), "joy", "Your order is paid: 30.00 EUR"),
        (str(paid.id), "refund", "Your money is back: 30.00 EUR"),
    }
    await mail.gets(ada.email, 4)


async def test_however_often_it_is_told_there_is_one_letter_per_order_and_kind(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    orders = [an_order(user=ada) for _ in range(20)]
    paid = [told(payment_succeeded(order)) for order in orders]
    again = [told(payment_succeeded(order)) for order in orders]  # the same facts, other ids
    await asyncio.gather(
        notifications.hears(*paid, *reversed(again), as_batch=True),
        *(notifications.hears(*reversed(paid)) for _ in range(3)),
    )
    await all_sent(notifications, ada, 20)
    await mail.gets(ada.email, 20)
    assert len(notifications.said_of(NotificationSent)) == 20


async def test_letters_are_in_the_recipients_language(
    notifications: RunningService, mail: MailSink
) -> None:
    sofja = await a_recipient(notifications, name="Софья", locale="ru")
    await notifications.hears(payment_succeeded(an_order(user=sofja)))
    [arrived] = await mail.gets(sofja.email)
    assert arrived.subject == "Ваш заказ оплачен: 30,00 EUR"
    assert "Здравствуйте, Софья!" in arrived.text
    assert "Здравствуйте, Софья!" in arrived.html
    await all_sent(notifications, sofja, 1)


async def test_a_change_of_profile_reaches_the_next_letter_and_an_old_one_changes_nothing(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, name="Ada")
    await notifications.hears(payment_succeeded(an_order(user=ada)))
    await all_sent(notifications, ada, 1)
    newest = a_user(id=ada.id, name="Ada King", email=f"new-{ada.email}", version=3)
    stale = a_user(id=ada.id, name="Ada Byron", version=2)
    await notifications.hears(UserUpdated(user=newest))
    await notifications.hears(UserUpdated(user=stale), UserRegistered(user=ada))
    await notifications.hears(payment_succeeded(an_order(user=ada)))
    await all_sent(notifications, ada, 2)
    [arrived] = await mail.gets(newest.email)
    assert "Hello Ada King," in arrived.text


async def test_a_letter_on_its_way_keeps_the_address_that_is_listed(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    with mail.saying("451 later", to=ada.email):
        await notifications.hears(payment_succeeded(an_order(user=ada)))
        await eventually(lambda: _asked(mail, ada.email))
        newer = a_user(id=ada.id, email=f"new-{ada.email}", version=2)
        await notifications.hears(UserUpdated(user=newer))
    [letter] = await all_sent(notifications, ada, 1)
    assert letter["to"] == ada.email
    await mail.gets(ada.email)
    assert mail.to(newer.email) == []


async def _asked(mail: MailSink, address: str) -> bool:
    return mail.asked[address] > 0


async def test_a_name_that_tries_to_be_more_is_a_name(
    notifications: RunningService, mail: MailSink
) -> None:
    name = "Ada\r\nBcc: eve@example.org\r\n\r\n<script>alert(1)</script>"
    ada = await a_recipient(notifications, name=name)
    await notifications.hears(payment_succeeded(an_order(user=ada)))
    [arrived] = await mail.gets(ada.email)
    assert arrived.recipients == [ada.email]
    assert "Bcc" not in arrived.message
    assert "Hello Ada Bcc: eve@example.org <script>alert(1)</script>," in arrived.text
    assert "<script>" not in arrived.html
    await all_sent(notifications, ada, 1)


async def test_an_address_that_is_none_fails_with_a_reason_and_asks_no_server(
    notifications: RunningService, mail: MailSink
) -> None:
    eve = await a_recipient(notifications, email="eve@example.org>,<ada@example.org")
    await notifications.hears(payment_succeeded(an_order(user=eve)))
    [failed] = await notifications.says(1)
    assert failed.model_dump()["reason"] == "553 this is not an address that mail can be sent to"
    [letter] = await listed(notifications, eve, status="failed")
    assert letter["sentAt"] is None
    assert mail.to("ada@example.org") == []
