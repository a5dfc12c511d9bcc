"""MIME messages, parsed by the standard library: they contain what was composed, and nothing is injected."""

import email
import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.notifications import rendering
from apps.notifications.channels.email import Sender, UnsendableError, compose, plain_address
from tests.support.mail import an_email

ID = an_email().id
SENDER = Sender.of("Chorus <orders@chorus.test>")

ONE_LINE = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=200
)
LINES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=500
)


def composed(subject: str = "Hello", text: str = "Words") -> bytes:
    recipient, message = compose(SENDER, an_email(subject=subject, body=text))
    assert recipient == "ada@x.test"
    return message


def read(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, _class=EmailMessage, policy=email.policy.SMTP)
    assert message.defects == []
    return message


def part(message: EmailMessage, kind: str) -> str:
    found = message.get_body((kind,))
    assert found is not None
    assert found.defects == []
    content = found.get_content()
    assert isinstance(content, str)
    return content.replace("\r\n", "\n")


def test_a_message_has_its_headers_and_both_parts() -> None:
    message = read(composed("Your order is paid: 30.00 EUR"))
    assert dict(message.items()) == {
        "From": "Chorus <orders@chorus.test>",
        "To": "ada@x.test",
        "Subject": "Your order is paid: 30.00 EUR",
        "Date": "Sun, 22 Nov 2026 13:05:12 +0000",
        "Message-ID": f"<{ID}@chorus.test>",
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/alternative; boundary="=_{ID.hex}"',
    }
    kinds = [part.get_content_type() for part in message.iter_parts()]
    assert kinds == ["text/plain", "text/html"]


def test_the_same_content_has_the_same_bytes() -> None:
    assert composed("Привет", "Слова") == composed("Привет", "Слова")


@given(subject=ONE_LINE, text=LINES)
def test_a_composed_message_is_parsed_to_the_same_content(subject: str, text: str) -> None:
    html = rendering.html("message", "en", subject, text)
    message = read(composed(subject, text))
    assert str(message["Subject"]).strip() == subject.strip()
    assert part(message, "plain") == text.rstrip() + "\n"
    assert part(message, "html") == html.rstrip() + "\n"
    assert len(message.items()) == 8


@given(subject=st.text(min_size=1, max_size=200), text=st.text(max_size=500))
def test_a_message_consists_of_short_lines_of_ascii(subject: str, text: str) -> None:
    for line in composed(subject, text).split(b"\r\n"):
        assert len(line) <= 78
        assert line.isascii()
        assert b"\r" not in line
        assert b"\n" not in line


@given(st.text(min_size=1, max_size=200))
def test_no_subject_adds_a_header(subject: str) -> None:
    headers = composed(f"Hi\r\nBcc: eve@x.test\r\n{subject}").split(b"\r\n\r\n")[0]
    names = [line.split(b":")[0] for line in headers.split(b"\r\n") if not line.startswith(b" ")]
    assert len(names) == 8
    assert b"Bcc" not in names


@given(st.text(max_size=300))
def test_no_text_ends_its_part(text: str) -> None:
    message = read(composed(text=f"{text}\r\n--=_{ID.hex}--\r\n.\r\nMAIL FROM:<eve@x.test>"))
    assert len(list(message.iter_parts())) == 2


def test_a_subject_that_looks_encoded_is_taken_literally() -> None:
    assert str(read(composed("=?utf-8?b?SGk=?="))["Subject"]) == "=?utf-8?b?SGk=?="


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "@x.test",
        "ada@",
        "ada@x.test\r\nBcc: eve@x.test",
        "ada@x.test, eve@x.test",
        "ada@x.test>,<eve@x.test",
        "Ada <ada@x.test>",
        "ada @x.test",
        '"ada"@x.test',
        "ада@x.test",
        "ada@почта.test",
        "ada@x.test\n",
        "ada@x.test\0",
    ],
)
def test_anything_but_one_plain_address_is_unsendable(address: str) -> None:
    with pytest.raises(UnsendableError):
        plain_address(address)
    with pytest.raises(UnsendableError):
        compose(SENDER, an_email(to=address))


@pytest.mark.parametrize(
    "address", ["ada@x.test", "a.b+tag@mail.example.org", "o'hara@x.test", "a!#$%&*/=?^_`{|}~-@x.y"]
)
def test_ordinary_addresses_are_accepted(address: str) -> None:
    assert plain_address(address) == address


@pytest.mark.parametrize(
    ("setting", "header", "address"),
    [
        ("orders@chorus.test", "From: orders@chorus.test", "orders@chorus.test"),
        ("Chorus <o@c.test>", "From: Chorus <o@c.test>", "o@c.test"),
        ("Хор <o@c.test>", "From: =?utf-8?b?0KXQvtGA?= <o@c.test>", "o@c.test"),
    ],
)
def test_the_sender_is_read_from_the_setting(setting: str, header: str, address: str) -> None:
    sender = Sender.of(setting)
    assert (sender.header, sender.address) == (header, address)


@pytest.mark.parametrize(
    "setting", ["", "Chorus", "a@b.test, c@d.test", "Chorus <o@c.test>\r\nBcc: e@x.test", "<>"]
)
def test_a_sender_that_is_not_one_address_is_refused(setting: str) -> None:
    with pytest.raises(LookupError, match="CHORUS_MAIL_FROM"):
        Sender.of(setting)
