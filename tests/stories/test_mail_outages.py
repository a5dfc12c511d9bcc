"""A mail server that refuses, rejects or is gone delays e-mails or ends them, and delays nothing else."""

from events.notifications import NotificationFailed
from tests.stories.journal import of_kind
from tests.stories.stack import Stack
from tests.support.eventually import eventually


async def test_a_deferred_notification_is_sent_once_as_soon_as_it_is_accepted(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    ben = await chorus.customer("Ben", deposit="100.00")
    with chorus.mail.refusing(ada.addresses[0], "451 4.7.1 greylisted, come back later"):
        order_id = await ada.order("30.00")
        assert (await ada.settled(order_id))["status"] == "paid"

        async def refused() -> bool:
            return chorus.mail.refused[ada.addresses[0]] >= 2

        await eventually(refused, what="nobody tries again")
        assert [notification["status"] for notification in await ada.notifications()] == ["pending"]
        assert chorus.mail.to(*ada.addresses) == []
        await ben.order("30.00")
        await ben.mail(1)
    await ada.notified(order_id, "joy", "sent")
    await ada.mail(1)


async def test_a_rejected_notification_has_failed_with_the_servers_reason(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    chorus.refused_for_good.add(ada.addresses[0])
    with chorus.mail.refusing(ada.addresses[0], "550 5.1.1 no such mailbox"):
        order_id = await ada.order("30.00")
        notification = await ada.notified(order_id, "joy", "failed")
    assert notification["sentAt"] is None
    await chorus.is_quiet()
    [failed] = of_kind(chorus.journal.flow(ada.flow), NotificationFailed)
    assert str(failed.notification.id) == notification["notificationId"]
    assert "550 5.1.1 no such mailbox" in failed.reason
    assert chorus.mail.refused[ada.addresses[0]] == 1
    assert (await ada.settled(order_id))["status"] == "paid"
    assert await ada.balance() == "70.00"


async def test_without_a_mail_server_only_notifications_wait(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    async with chorus.mail.gone():
        paid = [await ada.order("10.00") for _ in range(20)]
        statuses = [(await ada.settled(order_id))["status"] for order_id in paid]
        assert statuses == ["paid"] * 10 + ["rejected"] * 10
        assert await ada.balance() == "0.00"
        listed = [
            notification["status"] for notification in await ada.notifications(status="pending")
        ]
        assert len(listed) == 20
    await chorus.is_quiet()
    await ada.mail(20)


async def test_an_operator_can_write_to_a_user(chorus: Stack) -> None:
    ada = await chorus.customer()
    operator = await chorus.operator()
    message = {"userId": str(ada.id), "subject": "Welcome", "body": "Good to have you.\nChorus"}
    assert (
        await ada.ask("notifications", "POST", "/notification/send", message)
    ).status_code == 403
    answer = await operator.ask("notifications", "POST", "/notification/send", message)
    assert answer.status_code == 202
    [mail] = await ada.mail(1)
    assert mail.subject == "Welcome"
    assert mail.text.split("\n")[0].strip() == "Good to have you."
    assert mail.notification_id == answer.json()["notificationId"]
