"""Content headers that pamqp cannot decode, and what the replacement of its decoder depends on."""

import struct
from importlib.metadata import version

import pytest
from pamqp import frame, header
from pamqp.commands import Basic

from chassis.messaging.content_headers import UNREADABLE
from chassis.messaging.message import _unmarshal
from tests.support.foreign_messages import properties, with_headers
from tests.support.raw_amqp import longstr, shortstr


def decoded(encoded: bytes) -> Basic.Properties:
    """The properties of a message, decoded from a frame as a connection does it."""
    content = struct.pack(">HHQ", 60, 0, 5) + encoded
    data = struct.pack(">BHI", 2, 1, len(content)) + content + b"\xce"
    _, channel, found = frame.unmarshal(data)
    assert isinstance(found, header.ContentHeader)
    assert (channel, found.body_size) == (1, 5)
    return found.properties


def test_it_is_written_against_the_installed_version() -> None:
    """Pamqp has no public way to decode a part of a content header: look at it again with each new version."""
    assert version("pamqp") == "4.0.1"
    assert header.ContentHeader.unmarshal is _unmarshal


def test_nothing_raises() -> None:
    unreadable = [
        found
        for encoded in properties()
        if UNREADABLE in ((found := decoded(encoded)).headers or {})
    ]
    assert len(unreadable) > 50


def test_what_can_be_decoded_beside_it_is_there() -> None:
    headers = shortstr(b"good") + b"I" + b"\0\0\0\7" + shortstr(b"bad") + b"T" + b"\xff" * 8
    flags = 1 << 15 | 1 << 13 | 1 << 5  # content type, headers, type
    encoded = struct.pack(">H", flags) + shortstr(b"text/plain") + longstr(headers)
    found = decoded(encoded + shortstr(b"\xff\xff"))
    assert found.content_type == "text/plain"
    assert found.headers == {"good": 7, UNREADABLE: "bad, message_type"}
    assert not found.message_type


@pytest.mark.parametrize("end", range(1, 30))
def test_a_table_that_ends_early_is_no_endless_loop(end: int) -> None:
    table = (shortstr(b"name") + b"F" + longstr(shortstr(b"in it") + b"S" + longstr(b"text")))[:end]
    decoded(with_headers(table))


def test_large_nested_values_are_left_out() -> None:
    """Pamqp copies the rest for each value: 100,000 of them take it seconds."""
    found = decoded(with_headers(shortstr(b"large") + b"A" + longstr(b"V" * 100_000)))
    assert found.headers == {UNREADABLE: "large"}
