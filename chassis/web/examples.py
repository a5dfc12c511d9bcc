"""Example values for the documents, made from a JSON schema: of bodies, answers and events.

The same noun means the same thing everywhere, so one example of it serves everywhere, and an order's `userId` is the
`id` of the user in the same example. What a schema says of itself (`examples`, `const`, `default`) goes first.
"""

import zlib
from collections.abc import Collection, Mapping
from typing import Any, Final
from uuid import UUID

Schema = Mapping[str, Any]

TIME: Final = "2026-11-22T13:05:12.000000Z"

_NOUNS: Final = {
    "accessToken": "eyJhbGciOiJFZERTQSIsImtpZCI6IjIwMjYtMTEifQ.eyJzdWIiOiIwMTlhIn0.c2lnbmF0dXJl",
    "balance": "50.00",
    "body": "Dear Ann, your order over 150.00 EUR is paid.",
    "currency": "EUR",
    "email": "ann@example.com",
    "keyId": "2026-11-22",
    "name": "Ann",
    "password": "correct horse battery",
    "subject": "Your order is paid",
    "to": "ann@example.com",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIURSR1Hbo",
}

_SAME: Final = {"customer": "user", "recipient": "user"}
"""Who goes by another name there."""


def example_id(noun: str) -> UUID:
    """The id that examples give to a thing: a UUIDv7, the same for the same noun."""
    noun = _SAME.get(noun, noun)
    return UUID(f"019aab0f-7c40-7000-8000-{zlib.crc32(noun.lower().encode()):012x}")


class Examples:
    """Makes values that fit. `schemas` holds what is referred to.

    Fields that may be null are, unless their names are among `told`.
    """

    def __init__(self, schemas: Mapping[str, Schema], told: Collection[str] = ()) -> None:
        self._schemas = schemas
        self._told = told

    def of(self, schema: Schema, name: str = "", around: str = "") -> Any:
        """An example. `name` is that of the field, `around` that of the field around it."""
        schema = resolved(schema, self._schemas)
        match schema:
            case {"examples": [value, *_]} | {"example": value} | {"const": value}:
                pass
            case {"default": value} if value is not None:
                pass
            case {"anyOf": [*_, {"type": "null"}]} if name not in self._told:
                value = None
            case {"enum": [value, *_]}:
                pass
            case {"anyOf": [first, *_]}:
                value = self.of(first, name, around)
            case {"properties": fields}:
                value = {field: self.of(part, field, name) for field, part in fields.items()}
            case {"type": "array", "items": item}:
                value = [self.of(item, name, around)]
            case _:
                value = _scalar(schema, name, around)
        return value

    def said_of(self, schema: Schema) -> str:
        """The description of what a schema describes."""
        described = resolved(schema, self._schemas)
        return str(described.get("description") or described.get("title", ""))


def resolved(schema: Schema, schemas: Mapping[str, Schema]) -> Schema:
    """What a schema refers to; what it says beside the reference wins."""
    if "$ref" not in schema:
        return schema
    target = schemas[schema["$ref"].rpartition("/")[2]]
    return {**resolved(target, schemas), **{k: v for k, v in schema.items() if k != "$ref"}}


def _scalar(schema: Schema, name: str, around: str) -> Any:
    match schema:
        case {"format": "uuid"}:
            return str(example_id(around if name == "id" else name.removesuffix("Id")))
        case {"format": "date-time"}:
            return TIME
        case {"type": "string"}:
            return _NOUNS.get(name, name or "text")
        case {"type": "integer" | "number"}:
            return schema.get("minimum", 1)
        case {"type": "boolean"}:
            return True
    raise ValueError(f"{name}: no example for {schema}")
