"""The story that the demo tells, in both languages: what a customer is promised from registration to the e-mail."""

import pytest

from events.users import Locale
from tests.stories.stack import Stack

WORDS: dict[Locale, dict[str, str]] = {
    "en": {
        "hello": "Hello {name},",
        "paid": "Your order is paid: 30.00 EUR",
        "not paid": "Your order could not be paid: 1000.00 EUR",
        "balance": "Your balance: 70.00 EUR",
    },
    "ru": {
        "hello": "Здравствуйте, {name}!",
        "paid": "Ваш заказ оплачен: 30,00 EUR",
        "not paid": "Не удалось оплатить ваш заказ: 1000,00 EUR",
        "balance": "Ваш баланс: 70,00 EUR",
    },
}


@pytest.mark.parametrize(("locale", "name"), [("en", "Ada Lovelace"), ("ru", "Софья Ковалевская")])
async def test_a_covered_order_is_paid_an_uncovered_one_rejected_and_each_notified(
    chorus: Stack, locale: Locale, name: str
) -> None:
    words = {key: text.format(name=name) for key, text in WORDS[locale].items()}
    customer = await chorus.customer(name, locale, deposit="100.00")
    assert await customer.balance() == "100.00"

    fits = await customer.order("30.00")
    order = await customer.settled(fits)
    assert (order["status"], order["totalPrice"], order["currency"]) == ("paid", "30.00", "EUR")
    assert await customer.balance() == "70.00"
    listed = await customer.notified(fits, "joy")
    [joy] = await customer.mail(1)
    assert joy.recipients == customer.addresses
    assert joy.subject == listed["subject"] == words["paid"]
    for text in (joy.text, joy.html):
        assert words["hello"] in text
        assert str(fits) in text
        assert words["balance"].partition(": ")[2] in text

    does_not_fit = await customer.order("1000.00")
    order = await customer.settled(does_not_fit)
    assert (order["status"], order["reason"]) == ("rejected", "insufficient_funds")
    assert await customer.balance() == "70.00"
    await customer.notified(does_not_fit, "sorrow")
    _, sorrow = await customer.mail(2)
    assert sorrow.recipients == customer.addresses
    assert sorrow.subject == words["not paid"]
    assert str(does_not_fit) in sorrow.text
    assert words["balance"] in sorrow.text


async def test_a_client_that_prefers_to_wait_gets_the_outcome(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    paid = await ada.ask_for_order("30.00", Prefer="wait=20")
    assert (paid.status_code, paid.json()["status"]) == (201, "paid")
    assert paid.headers["Preference-Applied"] == "wait=20"
    refused = await ada.ask_for_order("1000.00", Prefer="wait=20")
    assert (refused.status_code, refused.json()["reason"]) == (403, "insufficient_funds")
    assert refused.headers["Content-Type"] == "application/problem+json"
    order = await ada.sees("orders", f"/order/{refused.json()['orderId']}")
    assert order["status"] == "rejected"


async def test_a_statement_shows_every_movement_newest_first(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    order_id = await ada.order("30.00")
    await ada.settled(order_id)
    assert (await ada.withdraw("20.50")).json()["balance"] == "49.50"
    assert (await ada.withdraw("49.51")).status_code == 403
    statement = await ada.sees("billing", f"/account/{ada.id}/transactions")
    assert [(line["kind"], line["amount"], line["balance"]) for line in statement["items"]] == [
        ("withdrawal", "20.50", "49.50"),
        ("payment", "30.00", "70.00"),
        ("deposit", "100.00", "100.00"),
    ]
    assert statement["items"][1]["orderId"] == str(order_id)


async def test_a_user_sees_only_their_own_records(chorus: Stack) -> None:
    ada = await chorus.customer(deposit="100.00")
    eve = await chorus.customer("Eve")
    order_id = await ada.order("30.00")
    notification = await ada.notified(order_id, "joy")
    for service, path in {
        "users": f"/user/view/{ada.id}",
        "billing": f"/account/{ada.id}",
        "orders": f"/order/{order_id}",
        "notifications": f"/notification/{notification['notificationId']}",
    }.items():
        assert (await ada.ask(service, "GET", path)).status_code == 200
        assert (await eve.ask(service, "GET", path)).status_code == 404
    assert (await eve.cancel(order_id)).status_code == 404
    assert (await eve.sees("orders", "/order"))["items"] == []
    assert (await eve.sees("notifications", "/notification"))["items"] == []
