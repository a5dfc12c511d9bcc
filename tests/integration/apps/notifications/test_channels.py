"""A second channel beside e-mail: one class, an address, and a text."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from apps.notifications import rendering
from apps.notifications.channels import Channel, ServerAwayError
from apps.notifications.dispatcher import Dispatcher
from apps.notifications.models import ADDRESSES, DeliveryResult, Notification
from chassis.database.transaction import transaction
from events.notifications import NotificationFailed, NotificationSent
from events.orders import OrderState
from events.users import UserRegistered
from tests.support.builders import a_user, an_order, now, payment_succeeded
from tests.support.eventually import eventually
from tests.support.harness import RunningService
from tests.support.mail import MailSink
from tests.support.notified import a_recipient, all_sent


class TextMessages(Channel):
    """A channel in a few lines. Its server can be away, and gives the listed results before it accepts."""

    def __init__(self) -> None:
        self.sent: list[UUID] = []
        self.results: list[DeliveryResult] = []
        self.back = asyncio.Event()
        self.back.set()
        self.refused_to_connect = 0

    async def ready(self) -> None:
        await self.back.wait()

    async def send(self, notification: Notification) -> DeliveryResult:
        if not self.back.is_set():
            self.refused_to_connect += 1
            raise ServerAwayError("no network")
        if self.results:
            return self.results.pop(0)
        self.sent.append(notification.id)
        return DeliveryResult("accepted", "0 queued")


@contextlib.asynccontextmanager
async def dispatching(notifications: RunningService, channel: Channel) -> AsyncIterator[None]:
    """A dispatcher of text messages, beside the service's own one of e-mails."""
    service = notifications.service
    dispatcher = asyncio.create_task(
        Dispatcher(service.database.pool, "text", lambda: channel, [service.relay.committed]).run()
    )
    try:
        yield
    finally:
        dispatcher.cancel()
        await asyncio.wait([dispatcher])


async def a_text_message(notifications: RunningService, order: OrderState) -> UUID:
    """A notification of joy about an order, rendered and addressed for the second channel."""
    at = now()
    text = Notification(
        id=uuid7(),
        user_id=order.user_id,
        order_id=order.id,
        kind="joy",
        channel="text",
        amount=order.total,
        balance=100,
        currency="EUR",
        address="+10000000000",
        locale="en",
        subject="Paid",
        body="Thank you!",
        status="pending",
        due_at=at,
        created_at=at,
        correlation_id="flow-text",
    )
    async with transaction(notifications.service.database.pool) as tx:
        await tx.insert([text])
    return text.id


async def is_(status: str, notifications: RunningService, id: UUID) -> None:
    """Wait until a notification has this status, and its event is published."""

    async def reached() -> None:
        found = await notifications.value("SELECT status FROM notifications WHERE id = $1", id)
        assert found == status

    await eventually(reached)
    await notifications.is_quiet()


@pytest.fixture
def text_messages(monkeypatch: pytest.MonkeyPatch) -> TextMessages:
    """A channel for every recipient who has its address; the column `name` takes the place of a number's."""
    monkeypatch.setitem(ADDRESSES, "text", "name")
    text = rendering._TEMPLATES.from_string("Paid\n\n{{ name }}, thank you!")
    monkeypatch.setitem(rendering._TEXTS, "text/en/joy", text)
    return TextMessages()


@pytest.mark.parametrize("known", ["before", "later"])
async def test_an_order_is_notified_once_in_each_channel(
    notifications: RunningService, mail: MailSink, text_messages: TextMessages, known: str
) -> None:
    ada = a_user(name="Ada")
    order = an_order(user=ada)
    events = [UserRegistered(user=ada), payment_succeeded(order)]
    async with dispatching(notifications, text_messages):
        for event in events if known == "before" else events[::-1]:
            await notifications.processes(event)
        await notifications.processes(events[1])
        await mail.gets(ada.email)

        async def both_published() -> None:
            sent = notifications.published_of(NotificationSent)
            assert {event.notification.to for event in sent} == {ada.email, "Ada"}
            assert {event.notification.order_id for event in sent} == {order.id}
            assert len(sent) == 2

        await eventually(both_published)
    [id] = text_messages.sent
    assert await notifications.value("SELECT body FROM notifications WHERE id = $1", id) == (
        "Ada, thank you!"
    )


async def test_a_recipient_without_an_address_in_a_channel_gets_nothing_there(
    notifications: RunningService, mail: MailSink, text_messages: TextMessages
) -> None:
    ada = await a_recipient(notifications, name="")
    await notifications.processes(payment_succeeded(an_order(user=ada)))
    await mail.gets(ada.email)
    [only] = await all_sent(notifications, ada, 1)
    assert only["to"] == ada.email


async def test_a_dispatcher_leaves_notifications_of_other_channels(
    notifications: RunningService, mail: MailSink
) -> None:
    ada = await a_recipient(notifications)
    id = await a_text_message(notifications, an_order(user=ada))
    await notifications.processes(payment_succeeded(an_order(user=ada)))
    await mail.gets(ada.email)
    untouched = "SELECT status = 'pending' AND due_at = created_at FROM notifications WHERE id = $1"
    assert await notifications.value(untouched, id)
    async with dispatching(notifications, TextMessages()):
        await is_("sent", notifications, id)


async def test_results_of_any_channel_defer_or_fail_a_notification(
    notifications: RunningService,
) -> None:
    channel = TextMessages()
    channel.results = [DeliveryResult("deferred", "1 busy"), DeliveryResult("refused", "2 no")]
    async with dispatching(notifications, channel):
        id = await a_text_message(notifications, an_order(user=a_user()))
        await is_("failed", notifications, id)
    [failed] = await notifications.publishes(1)
    assert isinstance(failed, NotificationFailed)
    assert failed.reason == "2 no"
    attempts = await notifications.value("SELECT attempts FROM notifications WHERE id = $1", id)
    assert attempts == 2


async def test_a_channel_whose_server_is_away_counts_no_attempt(
    notifications: RunningService,
) -> None:
    channel = TextMessages()
    channel.back.clear()
    async with dispatching(notifications, channel):
        id = await a_text_message(notifications, an_order(user=a_user()))

        async def tried() -> None:
            assert channel.refused_to_connect == 1

        await eventually(tried)
        state = "SELECT status = 'pending' AND attempts = 0 FROM notifications WHERE id = $1"
        assert await notifications.value(state, id)
        channel.back.set()
        await is_("sent", notifications, id)
    assert channel.sent == [id]
