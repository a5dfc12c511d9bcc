"""A user's token is used before UserRegistered arrives: orders are decided correctly, and notifications wait."""

from events.users import UserRegistered
from tests.stories.stack import Stack


async def test_a_notification_that_waited_for_its_user_is_sent_once(chorus: Stack) -> None:
    async with chorus.broker.withheld(UserRegistered, "notifications"):
        ada = await chorus.customer(deposit="100.00")
        order_id = await ada.order("30.00")
        assert (await ada.settled(order_id))["status"] == "paid"
        notification = await ada.notified(order_id, "joy", "waiting")
        assert (notification["to"], notification["subject"], notification["sentAt"]) == (
            None,
            None,
            None,
        )
        assert chorus.mail.to(*ada.addresses) == []
    notification = await ada.notified(order_id, "joy", "sent")
    assert notification["to"] == ada.addresses[0]
    await chorus.is_quiet()
    [mail] = await ada.mail(1)
    assert mail.subject == notification["subject"] == "Your order is paid: 30.00 EUR"


async def test_several_notifications_that_waited_are_all_sent(chorus: Stack) -> None:
    async with chorus.broker.withheld(UserRegistered, "notifications"):
        ada = await chorus.customer(deposit="100.00")
        paid, refused = await ada.order("30.00"), await ada.order("1000.00")
        await ada.notified(paid, "joy", "waiting")
        await ada.notified(refused, "sorrow", "waiting")
        await ada.cancel(paid)
        await ada.notified(paid, "refund", "waiting")
    assert {mail.subject for mail in await ada.mail(3)} == {
        "Your order is paid: 30.00 EUR",
        "Your order could not be paid: 1000.00 EUR",
        "Your money is back: 30.00 EUR",
    }


async def test_an_order_that_reaches_billing_before_its_user_is_decided_correctly(
    chorus: Stack,
) -> None:
    async with chorus.broker.withheld(UserRegistered, "billing", "orders"):
        ada = await chorus.customer()
        refused = await ada.settled(await ada.order("30.00"))
        assert (refused["status"], refused["reason"]) == ("rejected", "insufficient_funds")
        account = await ada.sees("billing", f"/account/{ada.id}")
        await ada.deposit("50.00")
        assert (await ada.settled(await ada.order("30.00")))["status"] == "paid"
    await chorus.is_quiet()
    after = await ada.sees("billing", f"/account/{ada.id}")
    assert after["accountId"] == account["accountId"]
    assert after["balance"] == "20.00"
    await ada.mail(2)
