"""A mail server that accepts all e-mails and discards them: `python -m bench.smtp_sink --port N`.

It implements as much of SMTP (RFC 5321) as a client needs to send e-mails. Like the load generator, it takes little
processor time from what is measured.
"""

import argparse
import asyncio
import signal
from typing import Final, cast

import uvloop

END_OF_DATA: Final = b"\r\n.\r\n"

REPLIES: Final = {
    b"EHLO": b"250-bench\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE 1000000\r\n",
    b"HELO": b"250 bench\r\n",
    b"MAIL": b"250 OK\r\n",
    b"RCPT": b"250 OK\r\n",
    b"DATA": b"354 end data with <CR><LF>.<CR><LF>\r\n",
    b"RSET": b"250 OK\r\n",
    b"NOOP": b"250 OK\r\n",
    b"QUIT": b"221 closing\r\n",
}
UNKNOWN: Final = b"500 command unrecognized\r\n"
ACCEPTED: Final = b"250 accepted\r\n"


class SmtpSession:
    """The server side of an SMTP session, for input in chunks of any size."""

    def __init__(self) -> None:
        self.over = False
        """Whether the client has sent QUIT."""
        self._buffer = b""
        self._in_data = False

    def feed(self, chunk: bytes) -> bytes:
        """The replies to the commands that are complete now."""
        self._buffer += chunk
        replies = []
        while not self.over and (reply := self._next()) is not None:
            replies.append(reply)
        return b"".join(replies)

    def _next(self) -> bytes | None:
        end = END_OF_DATA if self._in_data else b"\r\n"
        before, found, after = self._buffer.partition(end)
        if not found:
            return None
        self._buffer = after
        if self._in_data:
            self._in_data = False
            return ACCEPTED
        command = before[:4].upper()
        self._in_data, self.over = command == b"DATA", command == b"QUIT"
        return REPLIES.get(command, UNKNOWN)


class Sink(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._session = SmtpSession()
        self._transport.write(b"220 bench\r\n")

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._transport.write(self._session.feed(data))
        if self._session.over:
            self._transport.close()


async def serve(port: int) -> None:
    """Accept e-mails until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(Sink, "127.0.0.1", port)
    await stop.wait()
    server.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m bench.smtp_sink")
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
