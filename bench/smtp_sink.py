"""A mail server that takes every letter and keeps none: `python -m bench.smtp_sink --port N`.

It speaks as much of SMTP (RFC 5321) as a client needs to hand letters over, and costs a fraction of what a library for
more than that would: like the load generator, it should take little from what it measures.
"""

import argparse
import asyncio
import signal
from typing import Final, cast

import uvloop

END_OF_LETTER: Final = b"\r\n.\r\n"

ANSWERS: Final = {
    b"EHLO": b"250-bench\r\n250-8BITMIME\r\n250-PIPELINING\r\n250 SIZE 1000000\r\n",
    b"HELO": b"250 bench\r\n",
    b"MAIL": b"250 go on\r\n",
    b"RCPT": b"250 go on\r\n",
    b"DATA": b"354 send it, and end with a dot\r\n",
    b"RSET": b"250 forgotten\r\n",
    b"NOOP": b"250 still here\r\n",
    b"QUIT": b"221 good bye\r\n",
}
UNKNOWN: Final = b"500 not known here\r\n"
TAKEN: Final = b"250 taken\r\n"


class Conversation:
    """What is said to what comes in, in whatever pieces it comes."""

    def __init__(self) -> None:
        self.over = False
        """Whether the client has taken leave."""
        self._pieces = b""
        self._letter = False

    def hear(self, piece: bytes) -> bytes:
        """What is to be answered now."""
        self._pieces += piece
        answers = []
        while not self.over and (answer := self._next()) is not None:
            answers.append(answer)
        return b"".join(answers)

    def _next(self) -> bytes | None:
        end = END_OF_LETTER if self._letter else b"\r\n"
        before, found, after = self._pieces.partition(end)
        if not found:
            return None
        self._pieces = after
        if self._letter:
            self._letter = False
            return TAKEN
        command = before[:4].upper()
        self._letter, self.over = command == b"DATA", command == b"QUIT"
        return ANSWERS.get(command, UNKNOWN)


class Sink(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._conversation = Conversation()
        self._transport.write(b"220 bench\r\n")

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._transport.write(self._conversation.hear(data))
        if self._conversation.over:
            self._transport.close()


async def take(port: int) -> None:
    """Take letters until SIGTERM."""
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
    uvloop.run(take(parser.parse_args().port))


if __name__ == "__main__":
    main()
