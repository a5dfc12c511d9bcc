"""Mail servers that require TLS and authentication, and servers that cannot be trusted."""

import asyncio
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.builders import a_user
from tests.support.eventually import eventually
from tests.support.fixtures import Install
from tests.support.mail import MailSink
from tests.support.mailing import logged, mailing
from tests.support.processes import Processes


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


# The sink encrypts from the first byte, which aiosmtpd does not notice.
already_encrypted = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

LOGIN = {"CHORUS_SMTP_USERNAME": "chorus", "CHORUS_SMTP_PASSWORD": "s3cret pw"}


@already_encrypted
@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_server_that_requires_tls_and_authentication_gets_both(
    install_chorus: Install, processes: Processes, tmp_path: Path, tls: str
) -> None:
    pem, context = a_certificate(tmp_path)
    wants: dict[str, Any] = {"authenticator": only_chorus, "auth_required": True}
    sink = (
        MailSink(tls_context=context, require_starttls=True, **wants)
        if tls == "starttls"
        else MailSink(ssl=context, auth_require_tls=False, **wants)
    )
    async with mailing(install_chorus, f"mail_{tls}", sink) as here:
        settings = here.settings | LOGIN | {"CHORUS_SMTP_TLS": tls, "CHORUS_SMTP_CA": str(pem)}
        [process] = await processes.start(here.installation, "notifications", settings=settings)
        await here.publish(20, [a_user()])
        await here.all_sent(20)
        assert len(sink.e_mails) == 20
        assert await process.stop() == 0
        assert "s3cret pw" not in process.log


@already_encrypted
async def test_an_untrusted_server_or_a_wrong_login_gets_nothing_and_counts_no_attempt(
    install_chorus: Install, processes: Processes, tmp_path: Path
) -> None:
    pem, context = a_certificate(tmp_path)
    sink = MailSink(
        ssl=context, auth_require_tls=False, authenticator=only_chorus, auth_required=True
    )
    async with mailing(install_chorus, "mail_distrust", sink) as here:
        settings = here.settings | {"CHORUS_SMTP_TLS": "tls"}
        wrong = [
            settings | LOGIN,  # the certificate is not trusted
            settings | {"CHORUS_SMTP_CA": str(pem)},  # no login
            settings | LOGIN | {"CHORUS_SMTP_CA": str(pem), "CHORUS_SMTP_PASSWORD": "wrong"},
        ]
        await here.publish(20, [a_user()])
        for one in wrong:
            [process] = await processes.start(here.installation, "notifications", settings=one)
            await eventually(lambda: logged(process, "smtp.unavailable"))  # noqa: B023
            await asyncio.sleep(1)
            found = await here.rows("SELECT status, attempts FROM notifications")
            assert {(row["status"], row["attempts"]) for row in found} == {("pending", 0)}
            assert await process.stop() == 0
        assert sink.e_mails == []
        right = settings | LOGIN | {"CHORUS_SMTP_CA": str(pem)}
        await processes.start(here.installation, "notifications", settings=right)
        await here.all_sent(20)
