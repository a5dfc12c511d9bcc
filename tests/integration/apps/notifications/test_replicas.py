"""Delivery by several processes, and across crashes."""

from apps.notifications.use_cases import LEASE_SECONDS
from tests.support.builders import a_user
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.mail import MailSink
from tests.support.mailing import logged, mailing
from tests.support.processes import Processes


async def test_replicas_share_notifications_and_send_each_once(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "mail_shared", MailSink()) as here:
        await processes.start(
            here.installation, "notifications", "notifications", settings=here.settings
        )
        await here.publish(600, [a_user() for _ in range(50)])
        await here.all_sent(600)
        assert len(here.sink.e_mails) == 600
        assert here.copies() == 0


async def test_what_a_killed_dispatcher_had_leased_is_sent_after_its_lease(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "mail_killed", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        with here.sink.slow(0.05):
            await here.publish(400, [a_user() for _ in range(20)])
            await eventually(lambda: _arrived(here.sink, 40))
            process.kill()
            await process.ended()
        arrived = len(here.sink.e_mails)
        await process.start()
        await here.all_sent(400, within=LEASE_SECONDS + 30)
        assert len({e_mail.message["Message-ID"] for e_mail in here.sink.e_mails}) == 400
        # Accepted and not yet recorded: those being sent, and those whose results were being gathered.
        assert here.copies() <= min(arrived, 80)
        sources: dict[str, set[bytes]] = {}
        for e_mail in here.sink.e_mails:
            sources.setdefault(e_mail.message["Message-ID"], set()).add(e_mail.source)
        assert all(len(copies) == 1 for copies in sources.values())


async def _arrived(sink: MailSink, count: int) -> bool:
    return len(sink.e_mails) >= count


async def test_an_e_mail_accepted_just_before_a_crash_is_sent_twice_at_most(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "mail_window", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        ada = a_user()
        # The sink has accepted the e-mail, and replies when the process is dead.
        with here.sink.slow(3.0):
            await here.publish(1, [ada])
            await eventually(lambda: _arrived(here.sink, 1))
            process.kill()
            await process.ended()
        [replica] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        await here.all_sent(1, within=LEASE_SECONDS + 15)
        first, second = await here.sink.gets(ada.email, 2)
        assert first.source == second.source
        assert await replica.stop() == 0


async def test_a_dispatcher_that_stops_sends_nothing_twice_and_ends_its_leases(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "mail_ended", MailSink()) as here:
        process = processes.of("notifications", here.installation, settings=here.settings)
        with here.sink.slow(0.05):
            await process.start()
            await here.publish(300, [a_user() for _ in range(20)])
            for round_ in range(1, 4):
                await eventually(lambda: _arrived(here.sink, 40 * round_))  # noqa: B023
                assert await process.stop() == 0
                [held] = await here.rows(
                    "SELECT count(*) FROM notifications WHERE status = 'pending'"
                    " AND due_at > now() + interval '2 seconds'"
                )
                assert held["count"] == 0
                await process.start()
            await here.all_sent(300)
        assert here.copies() == 0
        assert len(here.sink.e_mails) == 300


async def test_notifications_wait_for_a_database_that_is_away(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "mail_database", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        cut = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with here.sink.slow(0.02):
            await here.publish(400, [a_user() for _ in range(20)])
            for round_ in range(1, 5):
                await eventually(lambda: _arrived(here.sink, 60 * round_))  # noqa: B023
                await here.rows(cut)
            await here.all_sent(400, within=LEASE_SECONDS + 30)
        assert await process.stop() == 0
        assert len({e_mail.message["Message-ID"] for e_mail in here.sink.e_mails}) == 400
        assert here.copies() == 0


async def test_logs_contain_neither_addresses_nor_content(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "mail_logs", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        eve, ada = a_user(), a_user()
        with (
            here.sink.replying(f"550 <{eve.email}> is unknown", to=eve.email),
            here.sink.replying(f"451 <{ada.email}> later", to=ada.email),
        ):
            await here.publish(2, [eve, ada])
            await eventually(lambda: logged(process, "code=550"))
            await eventually(lambda: logged(process, "code=451"))
        await here.sink.gets(ada.email)
        assert await process.stop() == 0
        for secret in (eve.email, ada.email, "Lovelace", "Your order"):
            assert secret not in process.log


async def test_an_invalid_sender_stops_the_service_with_the_reason(
    install_chorus: Install, processes: Processes
) -> None:
    installation = await install_chorus("mail_sender", "notifications")
    settings = {"CHORUS_MAIL_FROM": "Chorus"}
    process = processes.of("notifications", installation, settings=settings)
    process.launch()
    assert await process.ended() != 0
    assert "CHORUS_MAIL_FROM is not one e-mail address" in process.log
