"""A customer's change of name, address or language reaches every service, and the newest one stands."""

from events.users import UserRegistered, UserUpdated
from tests.stories.customers import Customer
from tests.stories.stack import Stack


async def paid_order(customer: Customer) -> None:
    """An order and its e-mail."""
    order_id = await customer.order("1.00")
    await customer.notified(order_id, "joy")


async def test_the_next_e_mail_has_the_new_name_address_and_language(chorus: Stack) -> None:
    sofja = await chorus.customer("Sofja", "en", deposit="100.00")
    await paid_order(sofja)
    new_address = f"new-{sofja.flow}@example.com"
    changed = await sofja.change(name="Софья", email=new_address, locale="ru")
    assert changed["version"] == 2
    await chorus.is_quiet()
    await paid_order(sofja)
    first, second = await sofja.mail(2)
    assert (first.recipients, "Hello Sofja," in first.text) == (sofja.addresses[:1], True)
    assert (second.recipients, second.subject) == ([new_address], "Ваш заказ оплачен: 1,00 EUR")
    assert "Здравствуйте, Софья!" in second.text
    await sofja.sign_in()


async def test_an_older_profile_that_arrives_late_is_ignored(chorus: Stack) -> None:
    ada = await chorus.customer("Ada", deposit="100.00")
    await ada.change(name="Ada Byron")
    await ada.change(name="Ada Lovelace")
    await chorus.is_quiet()
    *old, newest = [
        received
        for received in chorus.journal.flow(ada.flow)
        if isinstance(received.event, UserRegistered | UserUpdated)
    ]
    assert isinstance(newest.event, UserUpdated)
    assert newest.event.user.version == 3
    await chorus.publish_again(old)
    await chorus.is_quiet()
    await paid_order(ada)
    [email] = await ada.mail(1)
    assert "Hello Ada Lovelace," in email.text


async def test_a_change_that_overtakes_the_registration_is_kept(chorus: Stack) -> None:
    everywhere = ("billing", "orders", "notifications")
    async with chorus.broker.withheld(UserRegistered, *everywhere):
        ada = await chorus.customer("Ada", deposit="100.00")
        await ada.change(name="Ada Lovelace")
        for service in everywhere:
            await chorus.has_processed(service, UserUpdated, ada.id)
        await paid_order(ada)
    await chorus.is_quiet()
    await paid_order(ada)
    for email in await ada.mail(2):
        assert "Hello Ada Lovelace," in email.text
