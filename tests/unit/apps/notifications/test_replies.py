"""What a negative reply of a mail server means for an e-mail, by step, code and enhanced status code."""

from collections.abc import AsyncIterator

import pytest

from apps.notifications.channels import ServerAwayError
from apps.notifications.channels.email import EmailChannel, email_channels
from apps.notifications.channels.mail_server import MailSettings
from apps.notifications.channels.replies import REFUSED_BY_POLICY
from tests.support.mail import MailSink, an_email

WAITS = "waits"
"""The notification is deferred: the mail server may accept it later."""

POLICY = "waits, refused by policy"
"""The same, counted and logged: somebody has to change the settings or the relay."""

FAILED = "failed"
AWAY = "away"
"""The mail server is unavailable: no attempt is counted."""

REPLIES = [
    # MAIL names the sender only, which is the same for every e-mail: what is refused there is the relay's to decide.
    ("MAIL", "550 no", AWAY),
    ("MAIL", "550 5.1.1 no such mailbox", AWAY),
    ("MAIL", "550 5.7.1 not your sender", AWAY),
    ("MAIL", "550 5.1.8 the sender's domain does not exist", AWAY),
    ("MAIL", "553 5.7.1 sender address is not owned by user", AWAY),
    ("MAIL", "530 5.7.0 authentication required", AWAY),
    ("MAIL", "554 go away", AWAY),
    ("MAIL", "421 4.7.0 too busy", AWAY),
    ("MAIL", "452 4.3.1 disk full", WAITS),
    # RCPT and the end of the message: a policy of the relay.
    ("RCPT", "554 5.7.1 <ada@x.test>: relay access denied", POLICY),
    ("RCPT", "550 5.7.1 relaying denied", POLICY),
    ("RCPT", "550 5.7.26 unauthenticated sender", POLICY),
    ("RCPT", "551 5.7.1 not local", POLICY),
    ("RCPT", "553 5.7.1 sender rejected", POLICY),
    ("RCPT", "554 relay access denied", POLICY),
    ("RCPT", "554 5.5.1 no valid session", POLICY),
    ("RCPT", "503 5.5.1 authentication required", POLICY),
    ("RCPT", "502 not implemented", POLICY),
    ("RCPT", "521 5.3.2 no mail here", POLICY),
    ("RCPT", "530 5.7.0 authentication required", WAITS),
    ("RCPT", "535 5.7.8 login expired", WAITS),
    ("DATA", "550 5.7.1 rejected by policy", POLICY),
    ("DATA", "554 5.7.1 rejected by policy", POLICY),
    ("DATA", "554 transaction failed", POLICY),
    # An address, a mailbox, or the e-mail itself.
    ("RCPT", "550 5.1.1 no such mailbox", FAILED),
    ("RCPT", "550 no such mailbox", FAILED),
    ("RCPT", "550 5.2.1 mailbox disabled", FAILED),
    ("RCPT", "550 5.4.1 recipient address rejected", FAILED),
    ("RCPT", "551 user not local", FAILED),
    ("RCPT", "552 5.2.2 mailbox full", FAILED),
    ("RCPT", "553 5.1.3 bad address syntax", FAILED),
    ("RCPT", "501 5.1.3 bad address syntax", FAILED),
    ("RCPT", "501 bad address", FAILED),
    ("RCPT", "554 5.1.2 no such domain", FAILED),
    ("RCPT", "556 5.1.10 the domain accepts no mail", FAILED),
    ("DATA", "552 5.3.4 too big", FAILED),
    ("DATA", "554 5.6.0 malformed", FAILED),
    ("DATA", "550 5.0.0 no", FAILED),
    # Not now.
    ("RCPT", "450 4.2.1 greylisted", WAITS),
    ("RCPT", "451 4.7.1 greylisted", WAITS),
    ("DATA", "452 4.3.1 disk full", WAITS),
]


@pytest.fixture
async def sink() -> AsyncIterator[MailSink]:
    sink = MailSink()
    await sink.open()
    yield sink
    await sink.close()


@pytest.fixture
async def channel(sink: MailSink) -> AsyncIterator[EmailChannel]:
    channel = email_channels(MailSettings(smtp_port=sink.port))()
    await channel.ready()
    yield channel
    channel.close()


async def meaning(channel: EmailChannel) -> tuple[str, str]:
    """What sending an e-mail comes to, and the server's answer."""
    before = REFUSED_BY_POLICY._value.get()
    try:
        result = await channel.send(an_email())
    except ServerAwayError as error:
        return AWAY, str(error)
    by_policy = REFUSED_BY_POLICY._value.get() - before
    assert by_policy in (0, 1)
    if result.outcome == "refused":
        assert not by_policy
        return FAILED, result.answer
    assert result.outcome == "deferred"
    return (POLICY if by_policy else WAITS), result.answer


class TestReplies:
    @pytest.mark.parametrize(("step", "reply", "expected"), REPLIES)
    async def test_a_policy_waits_and_an_address_fails(
        self, sink: MailSink, channel: EmailChannel, step: str, reply: str, expected: str
    ) -> None:
        with sink.replying(reply, at=step):
            found, answer = await meaning(channel)
        assert found == expected
        assert reply[4:] in answer

    async def test_after_the_settings_are_changed_the_e_mail_is_accepted(
        self, sink: MailSink, channel: EmailChannel
    ) -> None:
        with sink.replying("554 5.7.1 relay access denied"):
            assert (await channel.send(an_email())).outcome == "deferred"
        assert (await channel.send(an_email())).outcome == "accepted"
