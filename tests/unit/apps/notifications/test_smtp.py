"""Connections to a mail server that follows a script: commands, their order, and pipelining."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import pytest

from apps.notifications.channels import ServerAwayError
from apps.notifications.channels.smtp import Connection, ConnectionLostError, WornConnectionError
from apps.notifications.channels.smtp_session import REPLY_LIMIT, Reply
from chassis.runtime.settings import Settings

MESSAGE: Final = b"Subject: dots\r\n\r\n.\r\n..two\r\nend.\r\n"
STUFFED: Final = b"Subject: dots\r\n\r\n..\r\n...two\r\nend.\r\n.\r\n"

MAIL, RCPT, DATA = b"MAIL FROM:<us@sink.test>\r\n", b"RCPT TO:<ada@sink.test>\r\n", b"DATA\r\n"
ACCEPTED: Final = Reply(250, "accepted")

Step = tuple[bytes, bytes]
"""The bytes that the server expects, and its reply."""

ENVELOPE_ACCEPTED: Final = MAIL + RCPT + DATA, b"250 go on\r\n250 go on\r\n354 send\r\n"
MESSAGE_ACCEPTED: Final = STUFFED, b"250 accepted\r\n"

Script = Callable[..., Awaitable[Connection]]


PIPELINING: Final = b"250-sink.test\r\n250-PIPELINING\r\n250 SIZE\r\n"


def opening(greeting: bytes) -> list[Step]:
    """The session up to the first mail transaction."""
    return [
        (b"", b"220 sink.test\r\n"),
        (b"EHLO here\r\n", greeting),
        (b"NOOP\r\n", b"250 OK\r\n"),
    ]


@contextlib.asynccontextmanager
async def served_by(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Connection]:
    """A connection, not open yet, to a server with this behaviour."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = Connection(
            Settings(smtp_host="127.0.0.1", smtp_port=port), "us@sink.test", "here"
        )
        try:
            yield connection
        finally:
            connection.close()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    """Opens a connection to a server that keeps to a script, and fails the test if the client does not."""
    async with contextlib.AsyncExitStack() as stack:

        async def run(*steps: Step, pipelining: bool = True, closes: bool = False) -> Connection:
            greeting = PIPELINING if pipelining else b"250 sink.test\r\n"
            unexpected: list[tuple[bytes, bytes]] = []
            ended = asyncio.Event()

            async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                for expected, reply in (*opening(greeting), *steps):
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
            connection = await stack.enter_async_context(served_by(follow))
            await connection.open()
            return connection

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


async def send(connection: Connection) -> Reply:
    return await connection.send(b"ada@sink.test", MESSAGE, 10.0)


async def test_commands_are_pipelined_if_the_server_announces_it(script: Script) -> None:
    transaction = [ENVELOPE_ACCEPTED, MESSAGE_ACCEPTED]
    connection = await script(*transaction, *transaction, (b"QUIT\r\n", b"221 bye\r\n"))
    assert await send(connection) == ACCEPTED
    assert await send(connection) == ACCEPTED
    assert connection.is_open
    await connection.quit()
    assert not connection.is_open


async def test_commands_follow_one_another_without_pipelining(script: Script) -> None:
    go_on = b"250 go on\r\n"
    connection = await script(
        (MAIL, go_on),
        (RCPT, go_on),
        (DATA, b"354 send\r\n"),
        MESSAGE_ACCEPTED,
        pipelining=False,
    )
    assert await send(connection) == ACCEPTED


async def test_the_first_refusal_is_the_result_and_the_connection_is_reset(script: Script) -> None:
    connection = await script(
        (MAIL + RCPT + DATA, b"250 go on\r\n550 who?\r\n503 to whom?\r\n"),
        (b"RSET\r\n", b"250 reset\r\n"),
        (MAIL + RCPT + DATA, b"250 go on\r\n252 perhaps\r\n354 send\r\n"),
        MESSAGE_ACCEPTED,
    )
    assert await send(connection) == Reply(550, "who?")
    assert await send(connection) == ACCEPTED


async def test_a_data_phase_after_a_refusal_is_ended_without_a_message(
    script: Script,
) -> None:
    connection = await script(
        (MAIL + RCPT + DATA, b"250 go on\r\n550 who?\r\n354 send\r\n"),
        (b".\r\n", b"554 to nobody\r\n"),
        (b"RSET\r\n", b"250 reset\r\n"),
        ENVELOPE_ACCEPTED,
        MESSAGE_ACCEPTED,
    )
    assert await send(connection) == Reply(550, "who?")
    assert await send(connection) == ACCEPTED


@pytest.mark.parametrize(
    "replies", [b"550 who?\r\n421 bye\r\n", b"250 go on\r\n550 who?\r\n", b"550 who?\r\n"]
)
async def test_a_refusal_is_final_even_if_the_connection_ends(
    script: Script, replies: bytes
) -> None:
    connection = await script((MAIL + RCPT + DATA, replies), closes=True)
    assert await send(connection) == Reply(550, "who?")
    assert not connection.is_open


async def test_no_empty_message_is_sent_after_a_refusal(script: Script) -> None:
    connection = await script((MAIL + RCPT + DATA, b"451 later\r\n250 go on\r\n354 send\r\n"))
    assert await send(connection) == Reply(451, "later")
    assert not connection.is_open


@pytest.mark.parametrize(
    "replies",
    [b"250 go on\r\n250 go on\r\n250 go on\r\n", b"250 go on\r\n354 send\r\n354 send\r\n"],
)
async def test_a_reply_of_the_wrong_category_is_not_a_result(
    script: Script, replies: bytes
) -> None:
    connection = await script((MAIL + RCPT + DATA, replies))
    with pytest.raises(ConnectionLostError):
        await send(connection)
    assert not connection.is_open


async def test_a_server_that_closes_before_any_reply_is_away(script: Script) -> None:
    with pytest.raises(ServerAwayError):
        await send(await script(closes=True))


async def test_a_failed_reset_closes_the_connection(script: Script) -> None:
    connection = await script(
        (MAIL + RCPT + DATA, b"250 go on\r\n550 who?\r\n503 to whom?\r\n"),
        (b"RSET\r\n", b"500 what?\r\n"),
    )
    assert await send(connection) == Reply(550, "who?")
    assert not connection.is_open


async def test_a_reply_of_several_lines_is_read_from_any_fragments(script: Script) -> None:
    connection = await script((b"NOOP\r\n", b""))
    session = connection._session
    assert session is not None
    session.send_command(b"NOOP")
    for byte in b"250-accepted \r\n250 as 7\r\n":
        session.data_received(bytes([byte]))
    assert await session.read_reply() == Reply(250, "accepted\nas 7")


async def test_buffered_data_of_a_timed_out_message_is_never_sent() -> None:
    timed_out, ended, got = asyncio.Event(), asyncio.Event(), bytearray()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for expected, reply in (*opening(PIPELINING), ENVELOPE_ACCEPTED):
            got.extend(await _read(reader, expected))
            writer.write(reply)
        await timed_out.wait()
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(1_000_000):
                got.extend(piece)
        writer.close()
        ended.set()

    more_than_sockets_hold = b"x" * 50_000_000 + b"\r\n"
    async with served_by(stalls) as connection:
        await connection.open()
        with pytest.raises(ConnectionLostError):
            await connection.send(b"ada@sink.test", more_than_sockets_hold, 0.5)
        timed_out.set()
        await ended.wait()
    assert RCPT in got
    assert len(got) < len(more_than_sockets_hold)


@pytest.mark.parametrize(
    "nothing", [b"", b"421 too busy\r\n", b"530 sign in\r\n", b"HTTP/1.1 400\r\n"]
)
async def test_a_reply_about_the_connection_means_the_server_is_away(
    script: Script, nothing: bytes
) -> None:
    connection = await script((MAIL + RCPT + DATA, nothing), closes=True)
    with pytest.raises(ServerAwayError):
        await send(connection)
    assert not connection.is_open


async def test_a_connection_that_ends_after_earlier_messages_is_worn(script: Script) -> None:
    connection = await script(
        ENVELOPE_ACCEPTED,
        MESSAGE_ACCEPTED,
        (MAIL + RCPT + DATA, b"421 enough\r\n"),
    )
    await send(connection)
    with pytest.raises(WornConnectionError):
        await send(connection)


@pytest.mark.parametrize(
    "replies",
    [
        [b"250 go on\r\n"],
        [b"250 go on\r\n421 stop\r\n503 no\r\n"],
        [b"250 go on\r\n250 go on\r\n421 stop\r\n"],
        [b"250 go on\r\n250 go on\r\n530 sign in\r\n"],
        [b"250 go on\r\n250 go on\r\n354 send\r\n", b""],
    ],
)
async def test_a_connection_that_ends_after_a_reply_is_lost(
    script: Script, replies: Sequence[bytes]
) -> None:
    connection = await script(
        *zip((MAIL + RCPT + DATA, STUFFED), replies, strict=False), closes=True
    )
    with pytest.raises(ConnectionLostError):
        await send(connection)
    assert not connection.is_open


@pytest.mark.parametrize(
    ("nonsense", "why"),
    [
        (b"nonsense\r\n", "not a reply"),
        (b"250-" + b"x" * REPLY_LIMIT, "without an end"),
        (b"250-x\r\n" * (REPLY_LIMIT // 5 + 1), "without an end"),
    ],
)
async def test_a_protocol_error_closes_the_connection(
    script: Script, nonsense: bytes, why: str
) -> None:
    connection = await script(ENVELOPE_ACCEPTED, (STUFFED, nonsense))
    with pytest.raises(ConnectionLostError, match=why):
        await send(connection)
    assert not connection.is_open


async def test_an_unsolicited_reply_closes_the_connection(script: Script) -> None:
    connection = await script(
        ENVELOPE_ACCEPTED,
        (STUFFED, b"250 accepted\r\n421 idle for long\r\n"),
    )
    assert await send(connection) == ACCEPTED
    assert not connection.is_open
