"""The e-mail channel with a mail server that follows a script: commands, replies, and connections that end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import pytest

from apps.notifications.channels import ServerAwayError, email
from apps.notifications.channels.email import EmailChannel, Sender, compose, email_channels
from apps.notifications.channels.mail_server import MailSettings
from apps.notifications.models import DeliveryResult
from tests.support.mail import an_email

SENDER: Final = Sender.of("us@sink.test")
NOTIFICATION: Final = an_email(to="ada@sink.test", body="dots\n..two\nend.")
MESSAGE: Final = compose(SENDER, NOTIFICATION)[1]
STUFFED: Final = MESSAGE.replace(b"\r\n..two", b"\r\n...two") + b".\r\n"

Step = tuple[bytes, bytes]
"""The bytes that the server expects, and its reply."""

MAIL, RCPT, DATA = b"MAIL FROM:<us@sink.test>\r\n", b"RCPT TO:<ada@sink.test>\r\n", b"DATA\r\n"
GO_ON: Final = b"250 go on\r\n"
OPENING: Final[list[Step]] = [
    (b"", b"220 sink.test\r\n"),
    (b"EHLO sink.test\r\n", b"250 sink.test\r\n"),
    (b"NOOP\r\n", b"250 OK\r\n"),
]
"""The session up to the first mail transaction."""

ENVELOPE: Final[list[Step]] = [(MAIL, GO_ON), (RCPT, GO_ON), (DATA, b"354 send\r\n")]
TRANSACTION: Final[list[Step]] = [*ENVELOPE, (STUFFED, b"250 accepted\r\n")]
RESET: Final[Step] = (b"RSET\r\n", b"250 reset\r\n")
ACCEPTED: Final = DeliveryResult("accepted", "250 accepted")

MORE_THAN_SOCKETS_HOLD: Final = b"x" * 20_000_000

Script = Callable[..., Awaitable[EmailChannel]]


def replying(*replies: bytes) -> list[Step]:
    """The server sends these replies to the commands and the message of an e-mail."""
    return list(zip((MAIL, RCPT, DATA, STUFFED), replies, strict=False))


@contextlib.asynccontextmanager
async def served_by(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[EmailChannel]:
    """A channel that is connected to a server with this behaviour."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = MailSettings(smtp_host="127.0.0.1", smtp_port=port, mail_from=SENDER.address)
        channel = email_channels(settings)()
        try:
            await channel.ready()
            yield channel
        finally:
            channel.close()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """Connects to a server that keeps to a script, and fails the test if the client does not."""
    async with contextlib.AsyncExitStack() as stack:

        async def run(*steps: Step, closes: bool = False) -> EmailChannel:
            unexpected: list[tuple[bytes, bytes]] = []
            ended = asyncio.Event()

            async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                for expected, reply in (*OPENING, *steps):
                    received = await _read(reader, expected)
                    if received != expected:
                        unexpected.append((expected, received))
                        break
                    writer.write(reply)
                if not closes and (more := await _rest(reader)):
                    unexpected.append((b"", more))
                writer.close()
                ended.set()

            stack.push_async_callback(_followed, ended, unexpected)
            return await stack.enter_async_context(served_by(follow))

        yield run


async def _read(reader: asyncio.StreamReader, expected: bytes) -> bytes:
    """All bytes that have arrived, also those after the expected ones if they came together."""
    received = b""
    while len(received) < len(expected):
        if not (piece := await reader.read(65_536)):
            break
        received += piece
    return received


async def _rest(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return await reader.read()
    return b""


async def _followed(ended: asyncio.Event, unexpected: Sequence[tuple[bytes, bytes]]) -> None:
    await ended.wait()
    assert not unexpected, "the client sent something else"


def is_open(channel: EmailChannel) -> bool:
    return channel._smtp.is_connected


def failures(channel: EmailChannel) -> int:
    """How often the server is taken to have failed: the next attempt to connect waits accordingly."""
    return channel._server.failures


async def is_lost(channel: EmailChannel) -> None:
    """The next e-mail is deferred, and the connection is closed."""
    result = await channel.send(NOTIFICATION)
    assert result.outcome == "deferred"
    assert result.answer.startswith("the connection was lost")
    assert not is_open(channel)


class TestReplies:
    async def test_a_connection_carries_many_e_mails_and_ends_with_quit(
        self, script: Script
    ) -> None:
        channel = await script(*TRANSACTION, *TRANSACTION, (b"QUIT\r\n", b"221 bye\r\n"))
        assert await channel.send(NOTIFICATION) == ACCEPTED
        assert await channel.send(NOTIFICATION) == ACCEPTED
        assert is_open(channel)
        await channel.release()
        assert not is_open(channel)

    async def test_a_reply_of_several_lines_is_stored_whole(self, script: Script) -> None:
        channel = await script(*ENVELOPE, (STUFFED, b"250-accepted \r\n250 as 7\r\n"))
        assert await channel.send(NOTIFICATION) == DeliveryResult("accepted", "250 accepted\nas 7")

    @pytest.mark.parametrize("before", [1, 2, 3], ids=["RCPT", "DATA", "message"])
    @pytest.mark.parametrize(
        ("code", "outcome"),
        [
            (400, "deferred"),
            (451, "deferred"),
            (499, "deferred"),
            (550, "refused"),
            (554, "deferred"),
            (599, "refused"),
        ],
    )
    async def test_the_first_negative_reply_decides_and_the_session_is_reset(
        self, script: Script, before: int, code: int, outcome: Any
    ) -> None:
        positive = [GO_ON, GO_ON, b"354 send\r\n"][:before]
        refused = replying(*positive, f"{code} no\r\n".encode())
        channel = await script(*refused, RESET, *TRANSACTION)
        assert await channel.send(NOTIFICATION) == DeliveryResult(outcome, f"{code} no")
        assert await channel.send(NOTIFICATION) == ACCEPTED
        assert failures(channel) == 0

    async def test_a_transient_reply_to_mail_defers_the_e_mail(self, script: Script) -> None:
        channel = await script(*replying(b"451 no\r\n"), RESET, *TRANSACTION)
        assert await channel.send(NOTIFICATION) == DeliveryResult("deferred", "451 no")
        assert await channel.send(NOTIFICATION) == ACCEPTED

    async def test_not_now_on_a_connection_that_has_carried_e_mails_renews_it(
        self, script: Script
    ) -> None:
        quit_ = (b"QUIT\r\n", b"221 bye\r\n")
        channel = await script(*TRANSACTION, *replying(GO_ON, b"452 enough\r\n"), quit_)
        assert await channel.send(NOTIFICATION) == ACCEPTED
        with pytest.raises(ServerAwayError):
            await channel.send(NOTIFICATION)
        assert not is_open(channel)
        assert failures(channel) == 0

    async def test_a_connection_is_renewed_after_so_many_e_mails(
        self, script: Script, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHORUS_SMTP_E_MAILS_PER_CONNECTION", "2")
        channel = await script(*TRANSACTION, *TRANSACTION, (b"QUIT\r\n", b"221 bye\r\n"))
        assert await channel.send(NOTIFICATION) == ACCEPTED
        assert await channel.send(NOTIFICATION) == ACCEPTED
        with pytest.raises(ServerAwayError):
            await channel.send(NOTIFICATION)
        assert failures(channel) == 0

    async def test_a_negative_reply_is_final_even_if_the_connection_ends(
        self, script: Script
    ) -> None:
        channel = await script(*replying(GO_ON, b"550 who?\r\n"), closes=True)
        assert await channel.send(NOTIFICATION) == DeliveryResult("refused", "550 who?")
        assert not is_open(channel)

    async def test_a_failed_reset_closes_the_connection(self, script: Script) -> None:
        refused = replying(GO_ON, b"550 who?\r\n")
        channel = await script(*refused, (b"RSET\r\n", b"500 what?\r\n"))
        assert await channel.send(NOTIFICATION) == DeliveryResult("refused", "550 who?")
        assert not is_open(channel)

    @pytest.mark.parametrize("reply", [b"250 accepted\r\n", b"220 ready\r\n"])
    async def test_an_e_mail_is_accepted_by_the_reply_to_its_end_only(
        self, script: Script, reply: bytes
    ) -> None:
        await is_lost(await script(*replying(GO_ON, GO_ON, reply)))

    async def test_an_address_that_is_not_valid_is_refused_without_asking(
        self, script: Script
    ) -> None:
        channel = await script()
        result = await channel.send(an_email(to="ada@sink.test>\r\nRCPT TO:<eve@sink.test"))
        assert result.outcome == "refused"
        assert result.answer.startswith("553 ")
        assert is_open(channel)


class TestConnectionsThatEnd:
    async def test_a_server_that_closes_before_any_reply_is_away(self, script: Script) -> None:
        channel = await script(closes=True)
        with pytest.raises(ServerAwayError):
            await channel.send(NOTIFICATION)

    @pytest.mark.parametrize(
        "reply",
        [
            b"",
            b"421 busy\r\n",
            b"530 sign in\r\n",
            b"550 not you\r\n",
            b"354 send\r\n",
            b"HTTP/1.1 400\r\n",
        ],
    )
    async def test_without_a_reply_to_the_e_mail_the_server_is_away(
        self, script: Script, reply: bytes
    ) -> None:
        channel = await script(*replying(reply), closes=True)
        with pytest.raises(ServerAwayError):
            await channel.send(NOTIFICATION)
        assert not is_open(channel)
        assert failures(channel) == 1

    async def test_after_earlier_e_mails_that_is_no_failure_of_the_server(
        self, script: Script
    ) -> None:
        channel = await script(*TRANSACTION, *replying(b"421 enough\r\n"))
        await channel.send(NOTIFICATION)
        with pytest.raises(ServerAwayError):
            await channel.send(NOTIFICATION)
        assert not is_open(channel)
        assert failures(channel) == 0

    @pytest.mark.parametrize(
        "replies",
        [
            [GO_ON],
            [GO_ON, b"421 stop\r\n"],
            [GO_ON, b"354 send\r\n"],
            [GO_ON, GO_ON, b"421 stop\r\n"],
            [GO_ON, GO_ON, b"530 sign in\r\n"],
            [GO_ON, GO_ON, b"354 send\r\n", b""],
            [GO_ON, GO_ON, b"354 send\r\n", b"354 send\r\n"],
            [GO_ON, GO_ON, b"354 send\r\n", b"421 stop\r\n"],
        ],
    )
    async def test_after_a_reply_to_the_e_mail_it_is_deferred(
        self, script: Script, replies: Sequence[bytes]
    ) -> None:
        channel = await script(*replying(*replies), closes=True)
        await is_lost(channel)
        assert failures(channel) == 1

    @pytest.mark.parametrize(
        "nonsense", [b"nonsense\r\n", b"250-" + b"x" * 40_000, b"250-x\r\n" * 10_000]
    )
    async def test_a_reply_that_is_malformed_or_has_no_end_closes_the_connection(
        self, script: Script, nonsense: bytes
    ) -> None:
        await is_lost(await script(*ENVELOPE, (STUFFED, nonsense)))

    async def test_a_reply_to_no_command_is_not_taken_for_that_to_the_next(
        self, script: Script
    ) -> None:
        refused = replying(b"250 go on\r\n", b"550 who?\r\n")
        channel = await script(*TRANSACTION, *refused, RESET)
        await channel.send(NOTIFICATION)
        protocol = channel._smtp.protocol
        assert protocol is not None
        protocol.data_received(b"250 stray\r\n")
        assert await channel.send(NOTIFICATION) == DeliveryResult("refused", "550 who?")

    async def test_a_reply_too_many_accepts_no_e_mail(self, script: Script) -> None:
        accepted_twice = (STUFFED, b"250 accepted\r\n250 stray\r\n")
        channel = await script(*ENVELOPE, accepted_twice, *ENVELOPE)
        assert await channel.send(NOTIFICATION) == ACCEPTED
        await is_lost(channel)


class TestClosing:
    @pytest.mark.parametrize("half_closed", [False, True])
    async def test_buffered_data_is_never_sent_later(
        self, monkeypatch: pytest.MonkeyPatch, *, half_closed: bool
    ) -> None:
        closed, ended, got = asyncio.Event(), asyncio.Event(), bytearray()

        async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for expected, reply in (*OPENING, *ENVELOPE):
                got.extend(await reader.readuntil(b"\r\n") if expected else b"")
                writer.write(reply)
            if half_closed:
                got.extend(await reader.read(1))
                writer.write_eof()
            await closed.wait()
            with contextlib.suppress(ConnectionResetError):
                while piece := await reader.read(1_000_000):
                    got.extend(piece)
            writer.close()
            ended.set()

        monkeypatch.setattr(email, "SEND_SECONDS", 60.0 if half_closed else 2.0)
        monkeypatch.setattr(email, "compose", lambda *_: ("ada@sink.test", MORE_THAN_SOCKETS_HOLD))
        async with served_by(stalls) as channel:
            await is_lost(channel)
            closed.set()
            await ended.wait()
        assert DATA in got
        assert MORE_THAN_SOCKETS_HOLD not in got
