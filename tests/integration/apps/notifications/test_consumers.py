"""Notifications from event to e-mail, on a real database, a real broker and a real SMTP server."""

import asyncio

from events.notifications import NotificationSent
from events.users import UserRegistered, UserUpdated
from tests.support.builders import (
    a_user,
    an_order,
    outbox_row,
    payment_refunded,
    payment_rejected,
    payment_succeeded,
)
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.notified import FIELDS, a_recipient, all_sent, listed


async def test_a_paid_order_makes_one_notification_of_joy_that_is_sent_and_published(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, name="Ada")
    order = an_order(user=ada, total="30.00")
    [row] = await notifications.processes(
        outbox_row(payment_succeeded(order), correlation_id="flow-joy")
    )
    [item] = await all_sent(notifications, ada, 1)
    assert item.keys() == FIELDS
    assert (item["kind"], item["orderId"], item["to"]) == ("joy", str(order.id), ada.email)
    assert item["subject"] == "Your order is paid: 30.00 EUR"
    [e_mail] = await mail.gets(ada.email)
    assert (e_mail.subject, e_mail.recipients) == (item["subject"], [ada.email])
    assert e_mail.text.replace("\r\n", "\n").strip() == item["body"]
    assert str(order.id) in e_mail.html
    assert e_mail.message["Message-ID"] == f"<{item['notificationId']}@chorus.test>"
    [received] = [
        one for one in notifications.tap.received if isinstance(one.event, NotificationSent)
    ]
    assert (received.cause.correlation_id, received.cause.causation_id) == ("flow-joy", row.id)
    assert isinstance(received.event, NotificationSent)
    assert str(received.event.notification.id) == item["notificationId"]
    assert received.event.notification.status == "sent"


async def test_each_outcome_has_its_notification(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    poor, late, paid = (an_order(user=ada, total="30.00") for _ in range(3))
    await notifications.processes(
        payment_rejected(poor, balance="1.00"),
        payment_rejected(late, reason="order_cancelled"),
        payment_succeeded(paid),
        payment_refunded(paid),
    )
    items = await all_sent(notifications, ada, 4)
    assert {(item["orderId"], item["kind"], item["subject"]) for item in items} == {
        (str(poor.id), "sorrow", "Your order could not be paid: 30.00 EUR"),
        (str(late.id), "sorrow", "Your order was cancelled and not charged: 30.00 EUR"),
        (str(paid.id), "joy", "Your order is paid: 30.00 EUR"),
        (str(paid.id), "refund", "Your money is back: 30.00 EUR"),
    }
    await mail.gets(ada.email, 4)


async def test_redelivered_events_make_one_notification_per_order_and_kind(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    orders = [an_order(user=ada) for _ in range(20)]
    paid = [outbox_row(payment_succeeded(order)) for order in orders]
    again = [outbox_row(payment_succeeded(order)) for order in orders]  # the same events, other ids
    await asyncio.gather(
        notifications.processes(*paid, *reversed(again), as_batch=True),
        *(notifications.processes(*reversed(paid)) for _ in range(3)),
    )
    await all_sent(notifications, ada, 20)
    await mail.gets(ada.email, 20)
    assert len(notifications.published_of(NotificationSent)) == 20


async def test_e_mails_are_in_the_recipients_language(
    notifications: RunningService, mail: MailSink
) -> None:
    sofja = await a_recipient(notifications, name="Софья", locale="ru")
    await notifications.processes(payment_succeeded(an_order(user=sofja)))
    [e_mail] = await mail.gets(sofja.email)
    assert e_mail.subject == "Ваш заказ оплачен: 30,00 EUR"
    assert "Здравствуйте, Софья!" in e_mail.text
    assert "Здравствуйте, Софья!" in e_mail.html
    await all_sent(notifications, sofja, 1)


async def test_an_updated_profile_reaches_the_next_notification_and_an_older_version_is_ignored(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications, name="Ada")
    await notifications.processes(payment_succeeded(an_order(user=ada)))
    await all_sent(notifications, ada, 1)
    newest = a_user(id=ada.id, name="Ada King", email=f"new-{ada.email}", version=3)
    stale = a_user(id=ada.id, name="Ada Byron", version=2)
    await notifications.processes(UserUpdated(user=newest))
    await notifications.processes(UserUpdated(user=stale), UserRegistered(user=ada))
    await notifications.processes(payment_succeeded(an_order(user=ada)))
    await all_sent(notifications, ada, 2)
    [e_mail] = await mail.gets(newest.email)
    assert "Hello Ada King," in e_mail.text


async def test_a_pending_notification_keeps_the_address_that_is_listed(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    with mail.replying("451 later", to=ada.email):
        await notifications.processes(payment_succeeded(an_order(user=ada)))
        await eventually(lambda: _asked(mail, ada.email))
        newer = a_user(id=ada.id, email=f"new-{ada.email}", version=2)
        await notifications.processes(UserUpdated(user=newer))
    [item] = await all_sent(notifications, ada, 1)
    assert item["to"] == ada.email
    await mail.gets(ada.email)
    assert mail.to(newer.email) == []


async def _asked(mail: MailSink, address: str) -> bool:
    return mail.asked[address] > 0


async def test_a_name_cannot_inject_headers_or_markup(
    notifications: RunningService, mail: MailSink
) -> None:
    name = "Ada\r\nBcc: eve@example.org\r\n\r\n<script>alert(1)</script>"
    ada = await a_recipient(notifications, name=name)
    await notifications.processes(payment_succeeded(an_order(user=ada)))
    [e_mail] = await mail.gets(ada.email)
    assert e_mail.recipients == [ada.email]
    assert "Bcc" not in e_mail.message
    assert "Hello Ada Bcc: eve@example.org <script>alert(1)</script>," in e_mail.text
    assert "<script>" not in e_mail.html
    await all_sent(notifications, ada, 1)


async def test_an_invalid_address_fails_with_a_reason_and_without_a_server(
    notifications: RunningService, mail: MailSink
) -> None:
    eve = await a_recipient(notifications, email="eve@example.org>,<ada@example.org")
    await notifications.processes(payment_succeeded(an_order(user=eve)))
    [failed] = await notifications.publishes(1)
    assert failed.model_dump()["reason"] == "553 this is not an address that mail can be sent to"
    [item] = await listed(notifications, eve, status="failed")
    assert item["sentAt"] is None
    assert mail.to("ada@example.org") == []
