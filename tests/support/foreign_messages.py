"""Messages as other programs may send them: every AMQP type in every place of the properties and headers."""

import struct
from collections.abc import Iterator
from itertools import product
from typing import Final

from tests.support.raw_amqp import longstr, shortstr

FRAME_BYTES: Final = 131_072
NOT_UTF8: Final = b"\xff\xfe\x80"
TIMES: Final = (0, 1, 2**32, 1_700_000_000_000_000, 2**63, 2**64 - 1)
"""Seconds, microseconds, and what is no time."""

NUMBERS: Final = {"t": 1, "b": 1, "B": 1, "s": 2, "u": 2, "I": 4, "i": 4, "l": 8, "f": 4, "d": 8}
"""Bytes of each type that holds a number."""

SHORT_STRINGS: Final = {
    "content_type": 15, "content_encoding": 14, "correlation_id": 10, "reply_to": 9, "message_id": 7,
    "type": 5, "app_id": 3, "cluster_id": 2,
}  # fmt: skip
"""Properties with the numbers of their flags. RabbitMQ itself checks the delivery mode, `expiration` and `user_id`."""

PLACES: Final = (
    b"anything", b"", NOT_UTF8, b"n" * 255, b"chorus_unreadable", b"cloudEvents_id", b"causation_id", b"traceparent",
    b"x-death", b"x-delivery-count", b"x-first-death-queue", b"dead_letter_queue", b"dead_letter_at", b"CC-like",
)  # fmt: skip
"""Names of headers, with those that services, broker and commands read."""


def values() -> Iterator[bytes]:
    """Values of every type, as they stand in a table: the type, then the value."""
    for kind, size in NUMBERS.items():
        # RabbitMQ itself closes the connection at a number that is not one.
        yield from (kind.encode() + byte * size for byte in (b"\0", b"\x7f", b"\xfe"))
    for scale in (0, 2, 255):
        yield b"D" + bytes([scale]) + b"\xff" * 4
    for text in (b"", b"text", NOT_UTF8, b"\0", b"x" * 30_000):
        yield b"S" + longstr(text)
        yield b"x" + longstr(text)
    yield from (b"T" + struct.pack(">Q", time) for time in TIMES)
    yield b"V"


def nested() -> Iterator[bytes]:
    """Tables and arrays of such values, deep ones, and long ones."""
    for value in values():
        yield b"A" + longstr(value)
        yield b"F" + longstr(shortstr(b"in it") + value)
    for depth in (100, 400, 3_000):
        array, table = b"A" + longstr(b""), b"F" + longstr(b"")
        for _ in range(depth):
            array, table = b"A" + longstr(array), b"F" + longstr(shortstr(b"a") + table)
        yield from (array, table)
    yield b"A" + longstr(b"V" * 100_000)


def properties() -> Iterator[bytes]:
    """The properties of one message each, with their flags."""
    for flag in SHORT_STRINGS.values():
        for text in (b"", b"\0", NOT_UTF8, b"y" * 255, "é".encode() * 127):
            yield struct.pack(">H", 1 << flag) + shortstr(text)
    yield from (struct.pack(">HB", 1 << 11, priority) for priority in (0, 9, 10, 255))
    yield from (struct.pack(">HQ", 1 << 6, time) for time in TIMES)
    for number, value in enumerate(values()):
        yield with_headers(shortstr(PLACES[number % len(PLACES)]) + value)
    for place, value in product(PLACES, (b"V", b"S" + longstr(NOT_UTF8), b"T" + b"\xff" * 8)):
        yield with_headers(shortstr(place) + value)
    for value in nested():
        yield with_headers(shortstr(b"anything") + value)
    yield with_headers(b"".join(shortstr(f"{n}".encode()) + b"V" for n in range(18_000)))
    for size in (
        100_000,
        120_000,
        FRAME_BYTES - 60,
    ):  # the headers that explain do not fit any more
        yield with_headers(shortstr(b"large") + b"S" + longstr(b"z" * size))


def with_headers(table: bytes) -> bytes:
    return struct.pack(">H", 1 << 13) + longstr(table)
