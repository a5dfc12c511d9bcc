"""What notifications promises across crashes, and as several processes."""

from apps.notifications.use_cases import LEASE_SECONDS
from tests.support.builders import a_user
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.mail import MailSink
from tests.support.mailing import logged, mailing
from tests.support.processes import Processes


async def test_replicas_share_the_letters_and_send_each_once(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "letters_shared", MailSink()) as here:
        await processes.start(
            here.installation, "notifications", "notifications", settings=here.settings
        )
        await here.hears_of(600, [a_user() for _ in range(50)])
        await here.all_sent(600)
        assert len(here.sink.letters) == 600
        assert here.copies() == 0


async def test_what_a_killed_mailer_had_in_hand_goes_out_after_its_lease(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "letters_killed", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        with here.sink.slow(0.05):
            await here.hears_of(400, [a_user() for _ in range(20)])
            await eventually(lambda: _arrived(here.sink, 40))
            process.kill()
            await process.ended()
        arrived = len(here.sink.letters)
        await process.start()
        await here.all_sent(400, within=LEASE_SECONDS + 30)
        assert len({letter.message["Message-ID"] for letter in here.sink.letters}) == 400
        # Accepted and not yet recorded: those on the way, and those whose answers were being gathered.
        assert here.copies() <= min(arrived, 80)
        sources: dict[str, set[bytes]] = {}
        for letter in here.sink.letters:
            sources.setdefault(letter.message["Message-ID"], set()).add(letter.source)
        assert all(len(copies) == 1 for copies in sources.values())


async def _arrived(sink: MailSink, count: int) -> bool:
    return len(sink.letters) >= count


async def test_a_letter_accepted_just_before_a_crash_comes_twice_at_most(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "letters_window", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        ada = a_user()
        # The sink has the letter, and its answer comes when nobody is there any more.
        with here.sink.slow(3.0):
            await here.hears_of(1, [ada])
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


async def test_a_mailer_that_is_asked_to_end_doubles_nothing_and_leaves_nothing_behind(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "letters_ended", MailSink()) as here:
        process = processes.of("notifications", here.installation, settings=here.settings)
        with here.sink.slow(0.05):
            await process.start()
            await here.hears_of(300, [a_user() for _ in range(20)])
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
        assert len(here.sink.letters) == 300


async def test_letters_wait_for_a_database_that_is_away(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "letters_database", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        cut = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with here.sink.slow(0.02):
            await here.hears_of(400, [a_user() for _ in range(20)])
            for round_ in range(1, 5):
                await eventually(lambda: _arrived(here.sink, 60 * round_))  # noqa: B023
                await here.rows(cut)
            await here.all_sent(400, within=LEASE_SECONDS + 30)
        assert await process.stop() == 0
        assert len({letter.message["Message-ID"] for letter in here.sink.letters}) == 400
        assert here.copies() == 0


async def test_logs_tell_neither_addresses_nor_words(
    install_chorus: Install, processes: Processes
) -> None:
    async with mailing(install_chorus, "letters_logs", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        eve, ada = a_user(), a_user()
        with (
            here.sink.saying(f"550 <{eve.email}> is unknown", to=eve.email),
            here.sink.saying(f"451 <{ada.email}> later", to=ada.email),
        ):
            await here.hears_of(2, [eve, ada])
            await eventually(lambda: logged(process, "code=550"))
            await eventually(lambda: logged(process, "code=451"))
        await here.sink.gets(ada.email)
        assert await process.stop() == 0
        for secret in (eve.email, ada.email, "Lovelace", "Your order"):
            assert secret not in process.log


async def test_a_sender_that_is_no_address_stops_the_service_with_the_reason(
    install_chorus: Install, processes: Processes
) -> None:
    installation = await install_chorus("letters_sender", "notifications")
    settings = {"CHORUS_MAIL_FROM": "Chorus"}
    process = processes.of("notifications", installation, settings=settings)
    process.launch()
    assert await process.ended() != 0
    assert "CHORUS_MAIL_FROM is not one e-mail address" in process.log
