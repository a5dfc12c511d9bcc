"""A service that is killed, ended or away loses nothing and doubles nothing. The audit after each story checks it."""

import pytest

from apps.notifications.dispatcher import UNRECORDED_LIMIT
from tests.stories.load import Load
from tests.stories.stack import Stack
from tests.support.eventually import eventually

KILLS = 3


@pytest.mark.parametrize("service", ["billing", "orders"])
async def test_a_service_killed_repeatedly_loses_and_doubles_nothing(
    chorus: Stack, service: str
) -> None:
    async with Load.on(chorus) as load:
        for _ in range(KILLS):
            await load.goes_on()
            await kill(chorus, load, service)
            await chorus[service].start()
        await load.goes_on()
    assert len(load.orders) == len(set(load.orders)) >= 30 * (KILLS + 1)
    await chorus.is_quiet()
    states = "SELECT status, count(*) FROM orders WHERE id = ANY($1) GROUP BY status"
    found = {r["status"]: r["count"] for r in await chorus.rows("orders", states, load.orders)}
    assert found.keys() == {"paid", "rejected"}
    assert sum(found.values()) == len(load.orders)


async def kill(chorus: Stack, load: Load, service: str) -> None:
    """Kill a service, and return once that is felt: requests get no answers, or orders no outcomes."""
    let_down = load.let_down
    chorus[service].kill()

    async def felt() -> bool:
        if service == "orders":
            return load.let_down > let_down
        pending = "SELECT count(*) FROM orders WHERE status = 'pending'"
        return bool(await chorus.value("orders", pending))

    await eventually(felt, what=f"nobody misses {service}")


async def test_a_killed_dispatcher_sends_the_remaining_e_mails_later(chorus: Stack) -> None:
    before = len(chorus.mail.emails)
    async with Load.on(chorus) as load:
        for _ in range(2):
            await load.goes_on()
            chorus["notifications"].kill()
            # What the server had accepted and nobody could record any more goes out again: the same bytes.
            chorus.extra_copies += UNRECORDED_LIMIT
            await chorus["notifications"].start()
        await load.goes_on()
    await chorus.is_quiet()
    mail = chorus.mail.emails[before:]
    assert len({email.notification_id for email in mail}) == len(load.orders)
    assert len({email.source for email in mail}) == len(load.orders)


@pytest.mark.parametrize("service", ["orders", "billing", "notifications", "users"])
async def test_sigterm_under_load_completes_the_work_in_progress(
    chorus: Stack, service: str
) -> None:
    async with Load.on(chorus) as load:
        await load.goes_on()
        assert await chorus[service].stop() == 0
        assert await chorus.value(service, "SELECT count(*) FROM outbox") == 0, (
            "not every event is published"
        )
        await chorus[service].start()
        await load.goes_on()
    assert "Traceback" not in chorus[service].log


async def test_orders_are_accepted_while_billing_is_away_and_settle_when_it_returns(
    chorus: Stack,
) -> None:
    ada = await chorus.customer(deposit="100.00")
    assert await chorus["billing"].stop() == 0
    orders = [await ada.order(total) for total in ("60.00", "60.00", "40.00")]
    late = await ada.ask_for_order("1.00", Prefer="wait=1")
    assert (late.status_code, late.json()["status"]) == (202, "pending")
    pending = await ada.sees("orders", "/order?status=pending")
    assert [item["orderId"] for item in pending["items"][1:]] == [str(id) for id in orders[::-1]]
    assert await ada.notifications() == []

    await chorus["billing"].start()
    assert [(await ada.settled(id))["status"] for id in orders] == ["paid", "rejected", "paid"]
    await ada.mail(4)


async def test_users_registered_while_billing_was_away_have_accounts(
    chorus: Stack,
) -> None:
    assert await chorus["billing"].stop() == 0
    ada = await chorus.customer()
    order_id = await ada.order("30.00")
    await chorus["billing"].start()
    assert (await ada.settled(order_id))["status"] == "rejected"
    assert await ada.balance() == "0.00"


async def test_every_e_mail_is_sent_once_notifications_return(
    chorus: Stack,
) -> None:
    assert await chorus["notifications"].stop() == 0
    ada = await chorus.customer(deposit="100.00")
    paid, refused = await ada.order("30.00"), await ada.order("1000.00")
    assert (await ada.settled(paid))["status"] == "paid"
    assert (await ada.settled(refused))["status"] == "rejected"
    await ada.cancel(paid)
    await chorus["notifications"].start()
    assert {email.subject for email in await ada.mail(3)} == {
        "Your order is paid: 30.00 EUR",
        "Your order could not be paid: 1000.00 EUR",
        "Your money is back: 30.00 EUR",
    }
