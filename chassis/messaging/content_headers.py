"""Content headers of received messages, decoded as far as that is possible: properties and headers never raise.

pamqp raises for what RabbitMQ accepts: bytes that are not UTF-8, a time after the year 9999, deep nesting. aiormq reads
all messages of a connection in one task, which ends with that error; the broker delivers the message again on the next
connection, and so on. Here such a property is left out and named in the header `UNREADABLE`. Decision record 37.

Written against pamqp 4.0.1; `test_content_headers.py` fails if a release changes what this depends on. `message.py`
replaces `pamqp.header.ContentHeader.unmarshal`.
"""

from typing import Any, Final

from pamqp import decode
from pamqp.commands import Basic

UNREADABLE: Final = "chorus_unreadable"
"""The header that names the properties and headers of a message that are left out."""

PLAIN_BYTES: Final = 16_384
"""The largest content header, and the largest nested table or array, that pamqp decodes: its time grows with the square
of the size, to seconds at the 128 KiB of a frame."""

SIZES: Final = dict(zip(b"tbBsuIilLfdDTV", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True))
"""Bytes of a value by its type; the others begin with a length. https://www.rabbitmq.com/amqp-0-9-1-errata"""

NESTED: Final = b"AF"


def readable(data: bytes) -> Basic.Properties:
    """The properties that can be decoded, of the payload of a content header frame."""
    found, unreadable = Basic.Properties(), list[str]()
    flags, at = int.from_bytes(data[12:14], "big"), 14
    for name, flag in Basic.Properties.flags.items():
        if not flags & flag:
            continue
        kind = Basic.Properties.amqp_type(name)
        end = at + _size(kind, data[at : at + 4])
        if kind == "table":
            found.headers = _table(data[at + 4 : end], unreadable)
        else:
            try:
                setattr(found, name, decode.by_type(data[at:end], kind)[1])
            except Exception:
                unreadable.append(name)
        at = end
    if unreadable:
        found.headers = {**(found.headers or {}), UNREADABLE: ", ".join(unreadable)[:200]}
    return found


def _size(kind: str, start: bytes) -> int:
    """The bytes of a property, of which the first are known."""
    match kind:
        case "octet":
            return 1
        case "timestamp":
            return 8
        case "shortstr":
            return 1 + int.from_bytes(start[:1], "big")
    return 4 + int.from_bytes(start, "big")


def _table(data: bytes, unreadable: list[str]) -> dict[str, Any]:
    """The headers that can be decoded. The names of the others are added to a list."""
    found: dict[str, Any] = {}
    at = 0
    while at < len(data):
        value = at + 1 + data[at]
        encoded = data[at + 1 : value]
        name = encoded.decode(errors="backslashreplace")
        size = SIZES.get(data[value] if value < len(data) else 0)
        if size is None:
            size = 4 + int.from_bytes(data[value + 1 : value + 5], "big")
        at = value + 1 + size
        try:
            encoded.decode()
            # pamqp raises for an unknown type, so also for what is too large.
            large = data[value] in NESTED and size > PLAIN_BYTES
            found[name] = decode.embedded_value(b"?" if large else data[value:at])[1]
        except Exception:
            unreadable.append(name)
    return found
