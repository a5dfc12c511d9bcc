"""What notifications promises across crashes, as several processes, and to mail servers that want TLS and a login."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from apps.notifications.use_cases import LEASE_SECONDS
from events.base import Event
from events.users import UserRegistered, UserState
from tests.support.broker import Broker
from tests.support.builders import a_user, an_order, payment_succeeded
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.installation import Installation
from tests.support.mail import MailSink
from tests.support.processes import Processes


class Chorus:
    """Notifications' database and broker, as an administrator sees them, and a mail server."""

    def __init__(self, installation: Installation, broker: Broker, sink: MailSink) -> None:
        self.installation = installation
        self.broker = broker
        self.sink = sink
        self.settings = {"CHORUS_SMTP_PORT": str(sink.port)}

    async def rows(self, sql: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.installation.database_admin_url("notifications"))
        try:
            found: list[asyncpg.Record] = await connection.fetch(sql)
            return found
        finally:
            await connection.close()

    async def hears_of(self, count: int, users: list[UserState]) -> None:
        """News of users and of so many paid orders of theirs."""
        events: list[Event] = [UserRegistered(user=user) for user in users]
        events += [payment_succeeded(an_order(user=users[n % len(users)])) for n in range(count)]
        await self.broker.publish(*events, as_pack=True)

    async def all_sent(self, count: int, *, within: float = 60) -> None:
        async def so() -> None:
            by_status = await self.rows("SELECT status, count(*) FROM letters GROUP BY 1")
            assert dict(by_status) == {"sent": count}

        await eventually(so, within=within)

    def copies(self) -> int:
        """How many letters arrived beside the first of each."""
        ids = [letter.message["Message-ID"] for letter in self.sink.letters]
        return len(ids) - len(set(ids))


@asynccontextmanager
async def chorus(install_chorus: Install, name: str, sink: MailSink) -> AsyncIterator[Chorus]:
    installation = await install_chorus(name, "notifications")
    broker = Broker(installation.amqp_admin_url)
    async with AsyncExitStack() as stack:
        await broker.open()
        stack.push_async_callback(broker.close)
        await sink.open()
        stack.push_async_callback(sink.close)
        yield Chorus(installation, broker, sink)


async def test_replicas_share_the_letters_and_send_each_once(
    install_chorus: Install, processes: Processes
) -> None:
    async with chorus(install_chorus, "letters_shared", MailSink()) as here:
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
    async with chorus(install_chorus, "letters_killed", MailSink()) as here:
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
    async with chorus(install_chorus, "letters_window", MailSink()) as here:
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
    async with chorus(install_chorus, "letters_ended", MailSink()) as here:
        process = processes.of("notifications", here.installation, settings=here.settings)
        with here.sink.slow(0.05):
            await process.start()
            await here.hears_of(300, [a_user() for _ in range(20)])
            for round_ in range(1, 4):
                await eventually(lambda: _arrived(here.sink, 40 * round_))  # noqa: B023
                assert await process.stop() == 0
                [held] = await here.rows(
                    "SELECT count(*) FROM letters WHERE status = 'pending'"
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
    async with chorus(install_chorus, "letters_database", MailSink()) as here:
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
    async with chorus(install_chorus, "letters_logs", MailSink()) as here:
        [process] = await processes.start(
            here.installation, "notifications", settings=here.settings
        )
        eve, ada = a_user(), a_user()
        with (
            here.sink.saying(f"550 <{eve.email}> is unknown", to=eve.email),
            here.sink.saying(f"451 <{ada.email}> later", to=ada.email),
        ):
            await here.hears_of(2, [eve, ada])
            await eventually(lambda: _logged(process, "code=550"))
            await eventually(lambda: _logged(process, "code=451"))
        await here.sink.gets(ada.email)
        assert await process.stop() == 0
        for secret in (eve.email, ada.email, "Lovelace", "Your order"):
            assert secret not in process.log


# Mail servers that want more than plain text.


def a_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1, signed by itself, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sink.test")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "sink.pem", folder / "sink.key"
    pem.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, private)
    return pem, context


def only_chorus(
    _server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any
) -> AuthResult:
    known = LoginPassword(b"chorus", b"s3cret pw")
    return AuthResult(success=login == known, handled=False)


# The sink speaks TLS from the first byte and does not know it.
already_encrypted = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

LOGIN = {"CHORUS_SMTP_USERNAME": "chorus", "CHORUS_SMTP_PASSWORD": "s3cret pw"}


@already_encrypted
@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_server_that_wants_tls_and_a_login_gets_both(
    install_chorus: Install, processes: Processes, tmp_path: Path, tls: str
) -> None:
    pem, context = a_certificate(tmp_path)
    wants: dict[str, Any] = {"authenticator": only_chorus, "auth_required": True}
    sink = (
        MailSink(tls_context=context, require_starttls=True, **wants)
        if tls == "starttls"
        else MailSink(ssl=context, auth_require_tls=False, **wants)
    )
    async with chorus(install_chorus, f"letters_{tls}", sink) as here:
        settings = here.settings | LOGIN | {"CHORUS_SMTP_TLS": tls, "SSL_CERT_FILE": str(pem)}
        [process] = await processes.start(here.installation, "notifications", settings=settings)
        await here.hears_of(20, [a_user()])
        await here.all_sent(20)
        assert len(sink.letters) == 20
        assert await process.stop() == 0
        assert "s3cret pw" not in process.log


@already_encrypted
async def test_a_server_that_cannot_be_trusted_or_wants_another_login_gets_nothing_and_costs_nothing(
    install_chorus: Install, processes: Processes, tmp_path: Path
) -> None:
    pem, context = a_certificate(tmp_path)
    sink = MailSink(
        ssl=context, auth_require_tls=False, authenticator=only_chorus, auth_required=True
    )
    async with chorus(install_chorus, "letters_distrust", sink) as here:
        settings = here.settings | {"CHORUS_SMTP_TLS": "tls"}
        wrong = [
            settings | LOGIN,  # nobody vouches for the certificate
            settings | {"SSL_CERT_FILE": str(pem)},  # no login
            settings | LOGIN | {"SSL_CERT_FILE": str(pem), "CHORUS_SMTP_PASSWORD": "wrong"},
        ]
        await here.hears_of(20, [a_user()])
        for wrongly in wrong:
            [process] = await processes.start(here.installation, "notifications", settings=wrongly)
            await eventually(lambda: _logged(process, "smtp.trouble"))  # noqa: B023
            await asyncio.sleep(1)
            found = await here.rows("SELECT status, attempts FROM letters")
            assert {(row["status"], row["attempts"]) for row in found} == {("pending", 0)}
            assert await process.stop() == 0
        assert sink.letters == []
        right = settings | LOGIN | {"SSL_CERT_FILE": str(pem)}
        await processes.start(here.installation, "notifications", settings=right)
        await here.all_sent(20)


async def _logged(process: Any, what: str) -> bool:
    return what in process.log


async def test_a_sender_that_is_no_address_stops_the_service_with_the_reason(
    install_chorus: Install, processes: Processes
) -> None:
    installation = await install_chorus("letters_sender", "notifications")
    settings = {"CHORUS_MAIL_FROM": "Chorus"}
    process = processes.of("notifications", installation, settings=settings)
    process.launch()
    assert await process.ended() != 0
    assert "CHORUS_MAIL_FROM is not one e-mail address" in process.log
