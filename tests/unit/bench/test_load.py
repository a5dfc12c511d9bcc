"""The load of the benchmark, against a server of the tests: parsing, and counting each request once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bench.client import ResponseReader, UnsupportedResponseError, post
from bench.load import ClosedLoop, OpenLoop
from bench.smtp_sink import SmtpSession

CREATED = b'HTTP/1.1 201 Created\r\ncontent-length: 13\r\n\r\n{"id":"quack"}'[:-1]
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n"
ORDER = post("/order/create", {"totalPrice": "1.00"}, "token")

Answer = Callable[[int], bytes | None]
"""The response to the n-th request; None closes the connection."""


class TestResponseReader:
    stream = CREATED + REFUSED + CREATED

    @pytest.mark.parametrize("size", [1, 2, 7, 40, 1000])
    def test_responses_are_parsed_from_chunks_of_any_size(self, size: int) -> None:
        reader = ResponseReader()
        found = []
        for begin in range(0, len(self.stream), size):
            found += reader.feed(self.stream[begin : begin + size])
        assert found == [(201, b'{"id":"quack"'), (503, b""), (201, b'{"id":"quack"')]

    def test_a_response_without_content_has_no_length(self) -> None:
        assert ResponseReader().feed(b"HTTP/1.1 204 No Content\r\n\r\n") == [(204, b"")]

    def test_a_body_without_a_content_length_is_an_error(self) -> None:
        with pytest.raises(UnsupportedResponseError):
            ResponseReader().feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def test_a_request_is_a_post_with_a_token(self) -> None:
        head, _, body = ORDER.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /order/create HTTP/1.1\r\n")
        assert b"\r\nAuthorization: Bearer token" in head
        assert b"\r\nContent-Length: %d\r\n" % len(body) in head
        assert body == b'{"totalPrice": "1.00"}'


class TestSmtpSession:
    email = b"Subject: hello\r\n\r\nHello\r\n..\r\n.\r\n"
    commands = (
        b"EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n" + email + b"what\r\nQUIT\r\n"
    )

    @pytest.mark.parametrize("size", [1, 5, 1000])
    def test_an_email_is_accepted_in_chunks_of_any_size(self, size: int) -> None:
        session = SmtpSession()
        replies = b""
        for begin in range(0, len(self.commands), size):
            replies += session.feed(self.commands[begin : begin + size])
        codes = [line[:4] for line in replies.split(b"\r\n") if line]
        assert codes == [
            b"250-", b"250-", b"250-", b"250 ", b"250 ", b"250 ", b"354 ", b"250 ", b"500 ", b"221 ",
        ]  # fmt: skip
        assert session.over


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    """Counts requests over all connections and responds to each; yields its address."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                await reader.readexactly(len(ORDER))
                reply = answer(count)
                count += 1
                if reply is None:
                    return
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def created(number: int) -> bytes:
    body = b'{"orderId":"%036d"}' % number
    return b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def test_a_closed_loop_places_as_many_orders_as_requested() -> None:
    async with server(created) as url:
        sent = await ClosedLoop(url, [ORDER], orders=50).run(connections=4)
    assert sent.statuses == {201: 50}
    assert sorted(sent.order_ids) == [f"{n:036d}" for n in range(50)]
    assert len(sent.waits) == 50
    assert min(sent.waits) >= 0
    assert sent.started <= min(sent.due) <= max(sent.answered) == sent.ended


async def test_refusals_are_counted_and_the_connection_continues() -> None:
    async with server(lambda n: REFUSED if n % 10 == 3 else created(n)) as url:
        sent = await ClosedLoop(url, [ORDER], orders=30).run(connections=2)
    assert sent.statuses == {201: 27, 503: 3}
    assert sent.accepted == len(sent.order_ids) == 27


async def test_a_lost_connection_reconnects_and_its_order_is_unanswered() -> None:
    async with server(lambda n: None if n == 5 else created(n)) as url:
        sent = await ClosedLoop(url, [ORDER], orders=30).run(connections=2)
    assert sent.unanswered == 1
    assert sent.accepted == 29


async def test_a_stopped_load_ends_after_the_last_responses() -> None:
    async with server(created) as url:
        load = ClosedLoop(url, [ORDER], orders=10_000_000)
        running = asyncio.create_task(load.run(connections=2))
        while load.sent.accepted < 10:  # noqa: ASYNC110 - the load has no event for it
            await asyncio.sleep(0.001)
        load.stop()
        sent = await running
    assert sent.accepted == sum(sent.statuses.values())


async def test_an_open_loop_sends_all_orders_and_measures_from_when_they_were_due() -> None:
    schedule = [0.0, 0.001, 0.001, 0.02, 0.05]
    async with server(created) as url:
        sent = await OpenLoop(url, [ORDER], schedule).run(connections=2)
    assert sent.accepted == 5
    assert sorted(due - sent.started for due in sent.due) == pytest.approx(schedule, abs=1e-6)
    assert min(sent.waits) >= 0


async def test_the_wait_for_a_free_connection_counts() -> None:
    def slow(number: int) -> bytes:
        time.sleep(0.02)
        return created(number)

    async with server(slow) as url:
        sent = await OpenLoop(url, [ORDER], [0.0] * 5).run(connections=1)
    assert sent.accepted == 5
    assert max(sent.waits) >= 5 * 0.02


async def test_an_open_loop_does_not_wait_for_unanswered_orders() -> None:
    async with server(lambda n: None if n == 1 else created(n)) as url:
        sent = await OpenLoop(url, [ORDER], [0.0, 0.01, 0.02, 0.03]).run(connections=1)
    assert (sent.accepted, sent.unanswered) == (3, 1)
