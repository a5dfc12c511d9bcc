"""The mailbox that stands in for MailDev: what comes in by SMTP is read by HTTP, at the same paths."""

from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import SMTP as WIRE

import aiosmtplib
import httpx
import pytest

from tools import mail_catcher as mailbox
from tools.servers.ports import private_port


class Post:
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

    async def letters(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = (await self.http.get("/email")).json()
        return found


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    post = Post()
    async with mailbox.listening(post.box, "127.0.0.1", post.smtp_port), post.http:
        yield post


def a_letter(
    subject: str = "Paid", text: str = "thank you", html: str = "<p>thank you</p>"
) -> bytes:
    letter = EmailMessage(policy=WIRE)
    letter["From"], letter["To"], letter["Subject"] = (
        "c@example.com",
        "Ада <ada@example.com>",
        subject,
    )
    letter.set_content(text)
    letter.add_alternative(html, subtype="html")
    return letter.as_bytes()


async def test_a_letter_that_comes_in_can_be_read_as_in_maildev(post: Post) -> None:
    await post.send(a_letter(subject="Оплачено"))

    [letter] = await post.letters()

    assert letter["subject"] == "Оплачено"
    assert letter["to"] == [{"address": "ada@example.com", "name": "Ада"}]
    assert str(letter["text"]).strip() == "thank you"
    for path in ("", "/html", "/source"):
        assert (await post.http.get(f"/email/{letter['id']}{path}")).status_code == 200


async def test_markup_in_a_letter_runs_nothing(post: Post) -> None:
    evil = "<script>alert(1)</script>"
    await post.send(a_letter(subject=evil, text=evil, html=evil))
    [letter] = await post.letters()

    for page in ("/", f"/letter/{letter['id']}"):
        assert "<script>" not in (await post.http.get(page)).text
    html = await post.http.get(f"/email/{letter['id']}/html")
    assert html.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


@pytest.mark.parametrize(
    "source",
    [
        b"no headers at all \xff",
        b"Content-Type: text/plain; charset=unheard-of\r\n\r\n\xff\xfe",
        b"Content-Type: multipart/alternative\r\n\r\nnot one part",
        b"Subject: =?utf-8?q?=ff?=\r\n\r\n",
    ],
)
async def test_the_strangest_letter_is_caught_and_shown(post: Post, source: bytes) -> None:
    await post.send(source)

    [letter] = await post.letters()

    assert (await post.http.get("/")).status_code == 200
    assert (await post.http.get(f"/letter/{letter['id']}")).status_code == 200


async def test_only_the_last_letters_are_kept(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "MAX_EMAILS", 2)
    for number in range(4):
        await post.send(a_letter(subject=str(number)))

    assert [letter["subject"] for letter in await post.letters()] == ["2", "3"]


async def test_a_letter_that_is_too_large_is_refused(post: Post) -> None:
    with pytest.raises(aiosmtplib.SMTPResponseException, match="exceeds"):
        await post.send(b"x" * (mailbox.MAX_BYTES + 1))

    assert await post.letters() == []


async def test_letters_can_be_thrown_away(post: Post) -> None:
    await post.send(a_letter())

    await post.http.delete("/email/all")

    assert await post.letters() == []
    assert (await post.http.get("/email/unknown")).status_code == 404
