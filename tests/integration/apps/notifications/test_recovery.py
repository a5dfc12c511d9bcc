"""A notification that was sent before its database was restored is not sent again."""

from datetime import timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from apps.notifications.models import Notification
from apps.notifications.recovery import recover
from chassis.database.transaction import transaction
from chassis.messaging.outbox import GROUP
from chassis.messaging.recovery import recover_events
from events.base import Causation, Envelope
from events.notifications import NotificationKind, NotificationSent, NotificationState
from events.orders import OrderState
from tests.support.builders import an_order, now, payment_rejected, payment_succeeded
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.notified import a_recipient, all_sent


def sent(
    order: OrderState, address: str, kind: NotificationKind = "joy"
) -> Envelope[NotificationSent]:
    state = NotificationState(
        id=uuid7(),
        user_id=order.user_id,
        order_id=order.id,
        kind=kind,
        amount=order.total,
        locale="en",
        to=address,
        subject="It is paid",
        body="It is paid.",
        status="sent",
        created_at=now(),
        sent_at=now(),
    )
    id = UUID(int=uuid7().int // GROUP * GROUP)
    return Envelope(id, NotificationSent(notification=state), now(), Causation("lost"))


async def test_what_was_sent_and_is_lost_or_pending_is_not_sent_again(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    gone, pending = (an_order(user=ada) for _ in range(2))
    lost = [sent(order, ada.email) for order in (gone, pending)]
    later = now() + timedelta(hours=1)
    state = vars(lost[1].event.notification)
    as_it_was = state | {"status": "pending", "address": state["to"], "sent_at": None}
    async with transaction(notifications.database) as tx:
        await tx.insert([Notification(**as_it_was, due_at=later, correlation_id="lost")])
    assert await recover_events(notifications.database, recover, lost) == []
    await notifications.processes(payment_succeeded(gone), payment_succeeded(pending))
    items = await all_sent(notifications, ada, 2)
    ids = {str(envelope.event.notification.id) for envelope in lost}
    assert {item["notificationId"] for item in items} == ids
    assert await mail.gets(ada.email, 0) == []


async def test_a_correction_that_is_lost_is_one_again(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    order = an_order(user=ada)
    lost = [sent(order, ada.email), sent(order, ada.email, "sorrow")]
    assert await recover_events(notifications.database, recover, lost) == []
    sql = "SELECT kind, correction FROM notifications WHERE order_id = $1 ORDER BY correction"
    assert await notifications.rows(sql, order.id) == [("joy", 0), ("sorrow", 1)]
    await notifications.processes(payment_rejected(order))  # what has caused it
    await all_sent(notifications, ada, 2)
    assert await mail.gets(ada.email, 0) == []
