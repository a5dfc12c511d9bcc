"""The mail catcher that replaces MailDev: e-mails that arrive by SMTP are served over HTTP, at the same paths."""

from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import SMTP as WIRE

import aiosmtplib
import httpx
import pytest

from tools import mail_catcher as mailbox
from tools.servers.ports import private_port


class Catcher:
    def __init__(self) -> None:
        self.box = mailbox.Mailbox()
        self.smtp_port = private_port()
        transport = httpx.ASGITransport(mailbox.page(self.box))
        self.http = httpx.AsyncClient(base_url="http://mail", transport=transport)

    async def send(self, source: bytes) -> None:
        async with aiosmtplib.SMTP(
            hostname="127.0.0.1", port=self.smtp_port, start_tls=False
        ) as smtp:
            await smtp.sendmail("chorus@example.com", ["ada@example.com"], source)

    async def e_mails(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = (await self.http.get("/email")).json()
        return found


@pytest.fixture
async def catcher() -> AsyncIterator[Catcher]:
    catcher = Catcher()
    async with mailbox.listening(catcher.box, "127.0.0.1", catcher.smtp_port), catcher.http:
        yield catcher


def an_e_mail(
    subject: str = "Paid", text: str = "thank you", html: str = "<p>thank you</p>"
) -> bytes:
    e_mail = EmailMessage(policy=WIRE)
    e_mail["From"], e_mail["To"], e_mail["Subject"] = (
        "c@example.com",
        "Ада <ada@example.com>",
        subject,
    )
    e_mail.set_content(text)
    e_mail.add_alternative(html, subtype="html")
    return e_mail.as_bytes()


async def test_a_caught_e_mail_is_served_as_by_maildev(catcher: Catcher) -> None:
    await catcher.send(an_e_mail(subject="Оплачено"))

    [e_mail] = await catcher.e_mails()

    assert e_mail["subject"] == "Оплачено"
    assert e_mail["to"] == [{"address": "ada@example.com", "name": "Ада"}]
    assert str(e_mail["text"]).strip() == "thank you"
    for path in ("", "/html", "/source"):
        assert (await catcher.http.get(f"/email/{e_mail['id']}{path}")).status_code == 200


async def test_markup_in_an_e_mail_is_not_executed(catcher: Catcher) -> None:
    evil = "<script>alert(1)</script>"
    await catcher.send(an_e_mail(subject=evil, text=evil, html=evil))
    [e_mail] = await catcher.e_mails()

    for page in ("/", f"/email/{e_mail['id']}"):
        assert "<script>" not in (await catcher.http.get(page)).text
    html = await catcher.http.get(f"/email/{e_mail['id']}/html")
    assert html.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize(
    "source",
    [
        b"no headers at all \xff",
        b"Content-Type: text/plain; charset=no-such-charset\r\n\r\n\xff\xfe",
        b"Content-Type: multipart/alternative\r\n\r\nnot one part",
        b"Subject: =?utf-8?q?=ff?=\r\n\r\n",
    ],
)
async def test_a_malformed_e_mail_is_caught_and_shown(catcher: Catcher, source: bytes) -> None:
    await catcher.send(source)

    [e_mail] = await catcher.e_mails()

    assert (await catcher.http.get("/")).status_code == 200
    assert (await catcher.http.get(f"/email/{e_mail['id']}")).status_code == 200


async def test_only_the_last_e_mails_are_kept(
    catcher: Catcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MAX_EMAILS", 2)
    for number in range(4):
        await catcher.send(an_e_mail(subject=str(number)))

    assert [e_mail["subject"] for e_mail in await catcher.e_mails()] == ["2", "3"]


async def test_an_e_mail_that_is_too_large_is_refused(catcher: Catcher) -> None:
    with pytest.raises(aiosmtplib.SMTPResponseException, match="exceeds"):
        await catcher.send(b"x" * (mailbox.MAX_BYTES + 1))

    assert await catcher.e_mails() == []


async def test_e_mails_can_be_deleted(catcher: Catcher) -> None:
    await catcher.send(an_e_mail())

    await catcher.http.delete("/email/all")

    assert await catcher.e_mails() == []
    assert (await catcher.http.get("/email/unknown")).status_code == 404
