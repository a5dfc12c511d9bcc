"""Delivery by e-mail while the mail server is slow, defers, refuses, breaks off, or is gone."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from apps.notifications import dispatcher, use_cases
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
    await notifications.processes(*(UserRegistered(user=user) for user in users), as_batch=True)
    return users


async def notify(notifications: RunningService, *users: UserState) -> None:
    """Create one notification of joy for each."""
    events = [payment_succeeded(an_order(user=user)) for user in users]
    await notifications.receives(*events, as_batch=True)
    count = "SELECT count(*) FROM notifications WHERE user_id = ANY($1)"

    async def created() -> None:
        assert await notifications.value(count, [user.id for user in users]) == len(users)

    await eventually(created)


async def stored(notifications: RunningService, *users: UserState) -> list[Any]:
    return await notifications.rows(
        "SELECT * FROM notifications WHERE user_id = ANY($1)", [user.id for user in users]
    )


async def all_are(status: str, notifications: RunningService, *users: UserState) -> None:
    async def so() -> None:
        found = await stored(notifications, *users)
        assert {row["status"] for row in found} == {status}

    await eventually(so, within=30)
    await notifications.is_quiet()


@pytest.mark.parametrize("at", ["MAIL", "RCPT", "DATA"])
async def test_a_transient_reply_defers_a_notification_and_it_is_sent_once(
    notifications: RunningService, mail: MailSink, at: str
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.replying("451 4.7.1 come back later", at=at):
        await notify(notifications, ada)

        async def deferred() -> None:
            [row] = await stored(notifications, ada)
            assert row["attempts"] == 1
            assert row["answer"] == "451 4.7.1 come back later"
            delay = row["due_at"] - row["created_at"]
            assert delay >= FIRST_DELAY / 2

        await eventually(deferred)
    await all_are("sent", notifications, ada)
    await mail.gets(ada.email)
    assert len(notifications.published) == 1


@pytest.mark.parametrize("at", ["RCPT", "DATA"])
async def test_a_permanent_reply_fails_a_notification_and_the_connection_is_used_again(
    notifications: RunningService, mail: MailSink, at: str
) -> None:
    eve, ada = await recipients(notifications, 2)
    with mail.replying("550 5.1.1 no such mailbox", at=at):
        await notify(notifications, eve)
        [failed] = await notifications.publishes(1)
    assert isinstance(failed, NotificationFailed)
    assert failed.reason == "550 5.1.1 no such mailbox"
    assert (failed.notification.user_id, failed.notification.status) == (eve.id, "failed")
    await notify(notifications, ada)
    await all_are("sent", notifications, ada)
    assert mail.to(eve.email) == []


@pytest.mark.parametrize("reply", ["554 5.7.1 relay access denied", "530 5.7.0 sign in first"])
async def test_a_refusal_by_policy_fails_no_notification(
    notifications: RunningService, mail: MailSink, reply: str
) -> None:
    users = await recipients(notifications, 20)
    with mail.replying(reply):
        await notify(notifications, *users)

        async def refused() -> None:
            assert any(mail.asked[user.email] >= 2 for user in users)

        await eventually(refused)
        assert {row["status"] for row in await stored(notifications, *users)} == {"pending"}
    await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_a_sender_who_is_refused_counts_no_attempt(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 20)
    with mail.replying("550 5.7.1 not your address", at="MAIL"):
        await notify(notifications, *users)
        async with notifications.http() as http:

            async def seen() -> None:
                assert "chorus_smtp_unavailable 1.0" in (await http.get("/metrics")).text

            await eventually(seen)
        found = await stored(notifications, *users)
        assert {(row["status"], row["attempts"]) for row in found} == {("pending", 0)}
    await all_are("sent", notifications, *users)


async def test_one_refused_recipient_among_many_does_not_affect_the_others(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 200)
    eve, mallory, *others = users
    with mail.replying("550 no", to=eve.email), mail.replying("451 later", to=mallory.email):
        await notify(notifications, *users)
        await all_are("sent", notifications, *others)
        await all_are("failed", notifications, eve)
    await all_are("sent", notifications, mallory)
    assert len(notifications.published_of(NotificationSent)) == 199
    assert len({e_mail.message["Message-ID"] for e_mail in mail.e_mails}) == len(mail.e_mails)


async def test_a_slow_server_gets_every_e_mail_once(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 16)
    with mail.slow(1.0):
        await notify(notifications, *users)
        await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_an_e_mail_that_takes_longer_than_a_lease_is_sent_once(
    install_chorus: Install, mail: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = 3.0
    for module in (use_cases, dispatcher):
        monkeypatch.setattr(module, "LEASE_SECONDS", lease)
    monkeypatch.setattr(dispatcher, "RENEW_SECONDS", lease / 3)
    # A new dispatcher: one that runs already may be waiting for an extension at the old interval.
    app = create_app(
        "notifications",
        description="",
        router=router,
        subscriptions=SUBSCRIPTIONS,
        compose=compose,
    )
    service = RunningService("notifications", app, await install_chorus("leases", "notifications"))
    settings = {"CHORUS_SMTP_PORT": str(mail.port)}
    async with service.running(settings) as notifications, notifications.observed():
        users = await recipients(notifications, 4)
        with mail.slow(2 * lease):
            await notify(notifications, *users)
            await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_a_lease_is_extended_during_sending(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.slow(18.0):
        await notify(notifications, ada)
        await mail.gets(ada.email, within=30)
    await all_are("sent", notifications, ada)
    assert mail.asked[ada.email] == 1


async def test_a_server_that_is_gone_counts_no_attempt(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 300)
    async with mail.gone():
        await notify(notifications, *users)
        async with notifications.http() as http:

            async def seen() -> None:
                assert "chorus_smtp_unavailable 1.0" in (await http.get("/metrics")).text

            await eventually(seen)
        await asyncio.sleep(2)
        found = await stored(notifications, *users)
        assert {(row["status"], row["attempts"]) for row in found} == {("pending", 0)}
    await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_connections_that_were_cut_between_e_mails_are_reopened_at_once(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    for count in range(1, 4):
        mail.cut()
        await notify(notifications, ada) if count == 1 else await notifications.receives(
            payment_succeeded(an_order(user=ada))
        )
        await mail.gets(ada.email, count, within=3)
        await all_are(
            "sent", notifications, ada
        )  # the reply has come: the next cut is between e-mails
    assert {row["attempts"] for row in await stored(notifications, ada)} == {0}


async def test_a_server_that_restarts_during_sending_is_used_again_within_seconds(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 8)
    with mail.slow(2.0):
        await notify(notifications, *users)

        async def all_begun() -> None:
            assert all(mail.asked[user.email] for user in users)

        await eventually(all_begun)
        mail.cut()
    cut_at = now()
    await all_are("sent", notifications, *users)
    assert now() - cut_at < FIRST_DELAY + timedelta(seconds=4)
    assert {row["attempts"] for row in await stored(notifications, *users)} == {1}


async def test_a_server_that_closes_with_421_counts_no_attempt(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 40)
    with mail.replying("421 too busy, goodbye", at="MAIL"):
        await notify(notifications, *users)
        await asyncio.sleep(1)
        found = await stored(notifications, *users)
        assert {(row["status"], row["attempts"]) for row in found} == {("pending", 0)}
    await all_are("sent", notifications, *users)


async def test_a_server_that_accepts_few_e_mails_per_connection_causes_no_pauses(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 100)
    before = mail.connections
    with mail.closing_after(2):
        await notify(notifications, *users)
        for user in users:
            await mail.gets(user.email, within=5)
    await all_are("sent", notifications, *users)
    assert mail.connections - before >= 40
    assert {row["attempts"] for row in await stored(notifications, *users)} == {0}


@pytest.mark.parametrize("reply", ["452 4.4.5 enough", "451 later", "550 5.7.1 enough"])
async def test_a_server_that_accepts_few_e_mails_in_a_session_defers_none(
    notifications: RunningService, mail: MailSink, reply: str
) -> None:
    users = await recipients(notifications, 60)
    before = mail.connections
    with mail.refusing_after(5, reply):
        await notify(notifications, *users)
        await all_are("sent", notifications, *users)
    assert {row["attempts"] for row in await stored(notifications, *users)} == {0}
    assert mail.connections - before >= 5
    for user in users:
        assert len(mail.to(user.email)) == 1


async def test_a_connection_lost_during_an_e_mail_defers_the_notification(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.replying(BREAK_OFF, at="RCPT", to=ada.email):
        await notify(notifications, ada)

        async def deferred() -> None:
            [row] = await stored(notifications, ada)
            assert row["attempts"] >= 1
            assert row["status"] == "pending"
            assert row["answer"].startswith("the connection was lost")

        await eventually(deferred)
    await all_are("sent", notifications, ada)
    await mail.gets(ada.email)


async def test_a_copy_after_a_lost_reply_has_the_same_bytes(
    notifications: RunningService, mail: MailSink
) -> None:
    [ada] = await recipients(notifications, 1)
    with mail.replying(BREAK_OFF, at="DATA", to=ada.email):
        await notify(notifications, ada)
        await mail.gets(ada.email)
    first, second = await mail.gets(ada.email, 2)
    assert first.source == second.source
    await all_are("sent", notifications, ada)
    assert len(notifications.published_of(NotificationSent)) == 1


async def test_a_server_that_keeps_breaking_off_is_not_flooded_with_connections(
    notifications: RunningService, mail: MailSink
) -> None:
    users = await recipients(notifications, 100)
    before = mail.connections
    with mail.replying(BREAK_OFF, at="MAIL"):
        await notify(notifications, *users)
        await asyncio.sleep(3)
        assert mail.connections - before < 30
    await all_are("sent", notifications, *users)
    for user in users:
        assert len(mail.to(user.email)) == 1
