"""Reading JSON schemas: references followed, and an example value made."""

import zlib
from functools import reduce
from typing import Any, Final

Document = dict[str, Any]

TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def inlined(part: Any, document: Document) -> Any:
    """The part with each `$ref` replaced by what it refers to; keywords beside one take precedence."""
    if isinstance(part, list):
        return [inlined(item, document) for item in part]
    if not isinstance(part, dict):
        return part
    while "$ref" in part:
        path = part["$ref"].removeprefix("#/").split("/")
        target = reduce(lambda found, step: found[step], path, document)
        part = target | {name: value for name, value in part.items() if name != "$ref"}
    return {name: inlined(value, document) for name, value in part.items()}


def example_id(noun: str) -> str:
    """A UUIDv7, the same for the same noun."""
    return f"019aab0f-7c40-7000-8000-{zlib.crc32(noun.encode()):012x}"


def example(schema: Document, name: str = "") -> Any:
    """A value for a field of that name. `schema` is inlined; its own `examples`, `const` and `default` are preferred.

    Raises ValueError for a schema that needs an example of its own.
    """
    value: Any
    match schema:
        case {"examples": [value, *_]} | {"const": value} | {"enum": [value, *_]}:
            pass
        case {"default": value} if value is not None:
            pass
        case {"anyOf": [*_, {"type": "null"}]}:
            value = None
        case {"properties": fields}:
            value = {field: example(part, field) for field, part in fields.items()}
        case {"type": "array", "items": item}:
            value = [example(item, name)]
        case {"format": "uuid"}:
            value = example_id(name.removesuffix("Id"))
        case {"format": "date-time"}:
            value = "2026-11-22T13:05:12.000000Z"
        case _:
            raise ValueError(f"{name}: give it an example in the code")
    return value
