"""What notifications promises while the mail server is slow, refuses, rejects, breaks off, or is gone."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from apps.notifications import mailer, use_cases
from apps.notifications.api import router
from apps.notifications.consumers import SUBSCRIPTIONS
from apps.notifications.main import compose
from apps.notifications.models import FIRST_DELAY
from chassis.runtime.service import create_app
from events.notifications import NotificationFailed, NotificationSent
from events.users import UserRegistered, UserState
from tests.support.builders import a_user, an_order, now, payment_succeeded
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.harness import RunningService
from tests.support.mail import BREAK_OFF, MailSink


async def recipients(notifications: RunningService, count: int) -> list[UserState]:
    users = [a_user() for _ in range(count)]
    await notifications.hears(*(UserRegistered(user=user) for user in users), as_batch=True)
    return users


async def writes_to(notifications: RunningService, *users: UserState) -> None:
    """One letter of joy to each."""
    events = [payment_succeeded(an_order(user=user)) for user in users]
    await notifications.receives(*events, as_batch=True)
    count = "SELECT count(*) FROM notifications WHERE user_id = ANY($1)"

    async def written() -> None:
        assert await notifications.value(count, [user.id for user in users]) == len(users)

    await eventually(written)


async def letters(notifications: RunningService, *users: UserState) -> list[Any]:
    return await notifications.rows(
        "SELECT * FROM notifications WHERE user_id = ANY($1)", [user.id for user in users]
    )


async def all_are(status: str, notifications: RunningService, *users: UserState) -> None:
    async def so() -> None:
        found = await letters(notifications, *users)
        assert {letter["status"] for letter in found} == {status}

    await eventually(so, within=30)
    await notifications.is_quiet()


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA"])
async def test_not_now_lets_a_letter_rest_and_it_goes_out_once(
    notifications: RunningService, mail: MailSink, at: str
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.saying("451 4.7.1 come back later", at=at):
        await writes_to(notifications, ada)

        async def put_off() -> None:
            [letter] = await letters(notifications, ada)
            assert letter["attempts"] == 1
            assert letter["answer"] == "451 4.7.1 come back later"
            rests = letter["due_at"] - letter["created_at"]
            assert rests >= FIRST_DELAY / 2

        await eventually(put_off)
    await all_are("sent", notifications, ada)
    await mail.gets(ada.email)
    assert len(notifications.said) == 1


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA"])
async def test_never_is_the_end_and_the_connection_serves_the_next_letter(
    notifications: RunningService, mail: MailSink, at: str
) -> None:
    eve, ada = await recipients(notifications, 2)
    with mail.saying("550 5.1.1 no such mailbox", at=at):
        await writes_to(notifications, eve)
        [failed] = await notifications.says(1)
    assert isinstance(failed, NotificationFailed)
    assert failed.reason == "550 5.1.1 no such mailbox"
    assert (failed.notification.user_id, failed.notification.status) == (eve.id, "failed")
    await writes_to(notifications, ada)
    await all_are("sent", notifications, ada)
    assert mail.to(eve.email) == []


async def test_one_refused_recipient_among_many_is_nobody_elses_trouble(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 200)
    eve, mallory, *others = users
    with mail.saying("550 no", to=eve.email), mail.saying("451 later", to=mallory.email):
        await writes_to(notifications, *users)
        await all_are("sent", notifications, *others)
        await all_are("failed", notifications, eve)
    await all_are("sent", notifications, mallory)
    assert len(notifications.said_of(NotificationSent)) == 199
    assert len({letter.message["Message-ID"] for letter in mail.letters}) == len(mail.letters)


async def test_a_slow_server_gets_every_letter_once(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 16)
    with mail.slow(1.0):
        await writes_to(notifications, *users)
        await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_a_letter_that_takes_longer_than_a_lease_goes_out_once(
    install_chorus: Install, mail: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = 3.0
    for module in (use_cases, mailer):
        monkeypatch.setattr(module, "LEASE_SECONDS", lease)
    monkeypatch.setattr(mailer, "RENEW_SECONDS", lease / 3)
    # A mailer that begins now: one that runs already may be waiting for its next renewal by the clock of before.
    app = create_app(
        "notifications",
        description="",
        router=router,
        subscriptions=SUBSCRIPTIONS,
        compose=compose,
    )
    service = RunningService("notifications", app, await install_chorus("leases", "notifications"))
    settings = {"CHORUS_SMTP_PORT": str(mail.port)}
    async with service.running(settings) as notifications, notifications.listened_to():
        users = await recipients(notifications, 4)
        with mail.slow(2 * lease):
            await writes_to(notifications, *users)
            await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_a_letter_that_takes_longer_than_a_lease_is_kept_in_hand(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.slow(18.0):
        await writes_to(notifications, ada)
        await mail.gets(ada.email, within=30)
    await all_are("sent", notifications, ada)
    assert mail.asked[ada.email] == 1


async def test_a_server_that_is_gone_costs_no_letter_an_attempt(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 300)
    async with mail.gone():
        await writes_to(notifications, *users)
        async with notifications.http() as http:

            async def seen() -> None:
                assert "chorus_smtp_away 1.0" in (await http.get("/metrics")).text

            await eventually(seen)
        await asyncio.sleep(2)
        found = await letters(notifications, *users)
        assert {(letter["status"], letter["attempts"]) for letter in found} == {("pending", 0)}
    await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_connections_that_were_cut_between_letters_are_opened_anew_at_once(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    for count in range(1, 4):
        mail.cut()
        await writes_to(notifications, ada) if count == 1 else await notifications.receives(
            payment_succeeded(an_order(user=ada))
        )
        await mail.gets(ada.email, count, within=3)
    await all_are("sent", notifications, ada)
    assert {letter["attempts"] for letter in await letters(notifications, ada)} == {0}


async def test_a_server_that_restarts_while_letters_are_on_their_way_is_back_in_no_time(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 8)
    with mail.slow(2.0):
        await writes_to(notifications, *users)

        async def all_on_their_way() -> None:
            assert all(mail.asked[user.email] for user in users)

        await eventually(all_on_their_way)
        mail.cut()
    cut_at = now()
    await all_are("sent", notifications, *users)
    assert now() - cut_at < FIRST_DELAY + timedelta(seconds=4)
    assert {letter["attempts"] for letter in await letters(notifications, *users)} == {1}


async def test_a_server_that_takes_no_letters_now_costs_none_an_attempt(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 40)
    with mail.saying("421 too busy, goodbye", at="MAIL"):
        await writes_to(notifications, *users)
        await asyncio.sleep(1)
        found = await letters(notifications, *users)
        assert {(letter["status"], letter["attempts"]) for letter in found} == {("pending", 0)}
    await all_are("sent", notifications, *users)


async def test_a_server_that_takes_few_letters_on_a_connection_is_served_without_pauses(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 100)
    before = mail.connections
    with mail.closing_after(2):
        await writes_to(notifications, *users)
        for user in users:
            await mail.gets(user.email, within=5)
    await all_are("sent", notifications, *users)
    assert mail.connections - before >= 40
    assert {letter["attempts"] for letter in await letters(notifications, *users)} == {0}


async def test_a_connection_lost_in_the_middle_lets_its_letter_rest(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.saying(BREAK_OFF, at="RCPT", to=ada.email):
        await writes_to(notifications, ada)

        async def put_off() -> None:
            [letter] = await letters(notifications, ada)
            assert letter["attempts"] >= 1
            assert letter["status"] == "pending"
            assert letter["answer"].startswith("the connection was lost")

        await eventually(put_off)
    await all_are("sent", notifications, ada)
    await mail.gets(ada.email)


async def test_a_copy_after_a_lost_answer_has_the_same_bytes(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.saying(BREAK_OFF, at="DATA", to=ada.email):
        await writes_to(notifications, ada)
        await mail.gets(ada.email)
    first, second = await mail.gets(ada.email, 2)
    assert first.source == second.source
    await all_are("sent", notifications, ada)
    assert len(notifications.said_of(NotificationSent)) == 1


async def test_a_server_that_breaks_off_again_and_again_is_not_stormed(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 100)
    before = mail.connections
    with mail.saying(BREAK_OFF, at="MAIL"):
        await writes_to(notifications, *users)
        await asyncio.sleep(3)
        assert mail.connections - before < 30
    await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1
