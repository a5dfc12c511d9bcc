"""A connection to a mail server that follows a script: what is said, in which order, and at once where it may be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import pytest

from apps.notifications.conversation import ANSWER_LIMIT, Reply
from apps.notifications.smtp import (
    Connection,
    ConnectionLostError,
    ServerAwayError,
    WornConnectionError,
)
from chassis.runtime.settings import Settings

LETTER: Final = b"Subject: dots\r\n\r\n.\r\n..two\r\nend.\r\n"
STUFFED: Final = b"Subject: dots\r\n\r\n..\r\n...two\r\nend.\r\n.\r\n"

MAIL, RCPT, DATA = b"MAIL FROM:<us@sink.test>\r\n", b"RCPT TO:<ada@sink.test>\r\n", b"DATA\r\n"
TAKEN: Final = Reply(250, "taken")

Step = tuple[bytes, bytes]
"""What comes in, all that there is, and what is answered."""

LET_THROUGH: Final = MAIL + RCPT + DATA, b"250 go on\r\n250 go on\r\n354 send\r\n"
HANDED_OVER: Final = STUFFED, b"250 taken\r\n"

Play = Callable[..., Awaitable[Connection]]


PIPELINING: Final = b"250-sink.test\r\n250-PIPELINING\r\n250 SIZE\r\n"


def opening(greeting: bytes) -> list[Step]:
    """What is said before any letter."""
    return [
        (b"", b"220 sink.test\r\n"),
        (b"EHLO here\r\n", greeting),
        (b"NOOP\r\n", b"250 OK\r\n"),
    ]


@contextlib.asynccontextmanager
async def served_by(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Connection]:
    """A connection, not open yet, to a server that does so."""
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
async def plays() -> AsyncIterator[Play]:
    """Opens a connection to a server that keeps to a script, and fails the test if the client does not."""
    async with contextlib.AsyncExitStack() as stack:

        async def play(*steps: Step, pipelining: bool = True, closes: bool = False) -> Connection:
            greeting = PIPELINING if pipelining else b"250 sink.test\r\n"
            strayed: list[tuple[bytes, bytes]] = []
            ended = asyncio.Event()

            async def follow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                for expected, answer in (*opening(greeting), *steps):
                    said = await _read(reader, expected)
                    if said != expected:
                        strayed.append((expected, said))
                        break
                    writer.write(answer)
                if not closes and (more := await _rest(reader)):
                    strayed.append((b"", more))
                writer.close()
                ended.set()

            stack.push_async_callback(_followed, ended, strayed)
            connection = await stack.enter_async_context(served_by(follow))
            await connection.open()
            return connection

        yield play


async def _read(reader: asyncio.StreamReader, expected: bytes) -> bytes:
    """All that has come; more than a step is read as well, if it came at once."""
    said = b""
    while len(said) < len(expected):
        if not (piece := await reader.read(65_536)):
            break
        said += piece
    return said


async def _rest(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return await reader.read()
    return b""


async def _followed(ended: asyncio.Event, strayed: Sequence[tuple[bytes, bytes]]) -> None:
    await ended.wait()
    assert not strayed, "the client said something else"


async def send(connection: Connection) -> Reply:
    return await connection.send(b"ada@sink.test", LETTER, 10.0)


async def test_a_server_that_takes_several_commands_at_once_gets_them(plays: Play) -> None:
    letter = [
        LET_THROUGH,
        HANDED_OVER,
    ]
    connection = await plays(*letter, *letter, (b"QUIT\r\n", b"221 bye\r\n"))
    assert await send(connection) == TAKEN
    assert await send(connection) == TAKEN
    assert connection.is_open
    await connection.quit()
    assert not connection.is_open


async def test_any_other_server_gets_one_after_the_other(plays: Play) -> None:
    go_on = b"250 go on\r\n"
    connection = await plays(
        (MAIL, go_on),
        (RCPT, go_on),
        (DATA, b"354 send\r\n"),
        HANDED_OVER,
        pipelining=False,
    )
    assert await send(connection) == TAKEN


async def test_a_refusal_is_what_counts_and_the_next_letter_goes_on(plays: Play) -> None:
    connection = await plays(
        (MAIL + RCPT + DATA, b"250 go on\r\n550 who?\r\n503 to whom?\r\n"),
        (b"RSET\r\n", b"250 forgotten\r\n"),
        (MAIL + RCPT + DATA, b"250 go on\r\n252 perhaps\r\n354 send\r\n"),
        HANDED_OVER,
    )
    assert await send(connection) == Reply(550, "who?")
    assert await send(connection) == TAKEN


async def test_a_server_that_waits_for_a_letter_to_nobody_gets_its_end_and_no_more(
    plays: Play,
) -> None:
    connection = await plays(
        (MAIL + RCPT + DATA, b"250 go on\r\n550 who?\r\n354 send\r\n"),
        (b".\r\n", b"554 to nobody\r\n"),
        (b"RSET\r\n", b"250 forgotten\r\n"),
        LET_THROUGH,
        HANDED_OVER,
    )
    assert await send(connection) == Reply(550, "who?")
    assert await send(connection) == TAKEN


@pytest.mark.parametrize(
    "answers", [b"550 who?\r\n421 bye\r\n", b"250 go on\r\n550 who?\r\n", b"550 who?\r\n"]
)
async def test_a_refusal_stands_whatever_becomes_of_the_connection(
    plays: Play, answers: bytes
) -> None:
    connection = await plays((MAIL + RCPT + DATA, answers), closes=True)
    assert await send(connection) == Reply(550, "who?")
    assert not connection.is_open


async def test_nobody_gets_an_empty_letter(plays: Play) -> None:
    connection = await plays((MAIL + RCPT + DATA, b"451 later\r\n250 go on\r\n354 send\r\n"))
    assert await send(connection) == Reply(451, "later")
    assert not connection.is_open


@pytest.mark.parametrize(
    "answers",
    [b"250 go on\r\n250 go on\r\n250 go on\r\n", b"250 go on\r\n354 send\r\n354 send\r\n"],
)
async def test_an_answer_to_something_else_is_no_verdict(plays: Play, answers: bytes) -> None:
    connection = await plays((MAIL + RCPT + DATA, answers))
    with pytest.raises(ConnectionLostError):
        await send(connection)
    assert not connection.is_open


async def test_a_server_that_takes_leave_at_once_is_away(plays: Play) -> None:
    with pytest.raises(ServerAwayError):
        await send(await plays(closes=True))


async def test_a_server_that_cannot_begin_anew_after_a_refusal_is_left(plays: Play) -> None:
    connection = await plays(
        (MAIL + RCPT + DATA, b"250 go on\r\n550 who?\r\n503 to whom?\r\n"),
        (b"RSET\r\n", b"500 what?\r\n"),
    )
    assert await send(connection) == Reply(550, "who?")
    assert not connection.is_open


async def test_an_answer_of_several_lines_is_one_however_it_comes(plays: Play) -> None:
    connection = await plays((b"NOOP\r\n", b""))
    conversation = connection._conversation
    assert conversation is not None
    conversation.say(b"NOOP")
    for byte in b"250-taken \r\n250 as 7\r\n":
        conversation.data_received(bytes([byte]))
    assert await conversation.hear() == Reply(250, "taken\nas 7")


async def test_what_has_not_gone_out_of_a_letter_that_is_given_up_never_does() -> None:
    given_up, ended, got = asyncio.Event(), asyncio.Event(), bytearray()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for expected, answer in (*opening(PIPELINING), LET_THROUGH):
            got.extend(await _read(reader, expected))
            writer.write(answer)
        await given_up.wait()
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
        given_up.set()
        await ended.wait()
    assert RCPT in got
    assert len(got) < len(more_than_sockets_hold)


@pytest.mark.parametrize(
    "nothing", [b"", b"421 too busy\r\n", b"530 sign in\r\n", b"HTTP/1.1 400\r\n"]
)
async def test_a_letter_that_was_not_come_to_counts_nothing(plays: Play, nothing: bytes) -> None:
    connection = await plays((MAIL + RCPT + DATA, nothing), closes=True)
    with pytest.raises(ServerAwayError):
        await send(connection)
    assert not connection.is_open


async def test_a_connection_that_has_served_well_is_worn_then(plays: Play) -> None:
    connection = await plays(
        LET_THROUGH,
        HANDED_OVER,
        (MAIL + RCPT + DATA, b"421 enough\r\n"),
    )
    await send(connection)
    with pytest.raises(WornConnectionError):
        await send(connection)


@pytest.mark.parametrize(
    "answers",
    [
        [b"250 go on\r\n"],
        [b"250 go on\r\n421 stop\r\n503 no\r\n"],
        [b"250 go on\r\n250 go on\r\n421 stop\r\n"],
        [b"250 go on\r\n250 go on\r\n530 sign in\r\n"],
        [b"250 go on\r\n250 go on\r\n354 send\r\n", b""],
    ],
)
async def test_a_connection_that_ends_with_a_letter_on_it_is_lost(
    plays: Play, answers: Sequence[bytes]
) -> None:
    connection = await plays(
        *zip((MAIL + RCPT + DATA, STUFFED), answers, strict=False), closes=True
    )
    with pytest.raises(ConnectionLostError):
        await send(connection)
    assert not connection.is_open


@pytest.mark.parametrize(
    ("nonsense", "why"),
    [
        (b"nonsense\r\n", "not an answer"),
        (b"250-" + b"x" * ANSWER_LIMIT, "without an end"),
        (b"250-x\r\n" * (ANSWER_LIMIT // 5 + 1), "without an end"),
    ],
)
async def test_whoever_does_not_speak_smtp_is_left(plays: Play, nonsense: bytes, why: str) -> None:
    connection = await plays(LET_THROUGH, (STUFFED, nonsense))
    with pytest.raises(ConnectionLostError, match=why):
        await send(connection)
    assert not connection.is_open


async def test_an_answer_to_nothing_is_a_leave(plays: Play) -> None:
    connection = await plays(
        LET_THROUGH,
        (STUFFED, b"250 taken\r\n421 idle for long\r\n"),
    )
    assert await send(connection) == TAKEN
    assert not connection.is_open
