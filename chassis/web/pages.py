"""What the AsyncAPI page shows: the document, with its references followed and its schemas written as tables."""

from collections.abc import Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]


def sections(document: Document) -> dict[str, list[Document]]:
    """The operations under the headings of the page."""
    found: dict[str, list[Document]] = {"Says": [], "Hears": [], "Sets aside": []}
    for id, operation in document["operations"].items():
        channel = _followed(document, operation["channel"])
        messages = [_message(document, reference) for reference in operation["messages"]]
        hears = operation["action"] == "receive"
        title = "Hears" if hears else "Sets aside" if id == "park" else "Says"
        shown = {**operation, "id": id, "channel": channel, "messages": messages}
        found[title].append(shown)
    return {title: operations for title, operations in found.items() if operations}


def _message(document: Document, reference: Document) -> Document:
    message = _followed(document, reference)
    tables = {
        "AMQP properties": message.get("x-amqp-properties", {}),
        "Headers": message["headers"],
        "Body": message["payload"],
    }
    rows = {title: list(_rows(document, schema)) for title, schema in tables.items()}
    return {**message, "tables": {title: table for title, table in rows.items() if table}}


def _followed(document: Document, part: Document) -> Document:
    """What `$ref` points to; what stands beside it wins."""
    if "$ref" not in part:
        return part
    found = document
    for step in part["$ref"].split("/")[1:]:
        found = found[step]
    return {**_followed(document, found), **{k: v for k, v in part.items() if k != "$ref"}}


def _rows(document: Document, schema: Document, prefix: str = "") -> Iterator[Document]:
    """Every field of a schema, and those inside it."""
    schema = _followed(document, schema)
    if schema.get("type") == "array":
        yield from _rows(document, schema["items"], f"{prefix}[].".removeprefix("."))
    for choice in schema.get("anyOf", ()):
        yield from _rows(document, choice, prefix)
    for name, part in schema.get("properties", {}).items():
        field = _followed(document, part)
        yield {
            "name": f"{prefix}{name}",
            "type": _type(document, field),
            "always": name in schema.get("required", ()),
            "meaning": field.get("description", ""),
        }
        yield from _rows(document, field, f"{prefix}{name}.")


def _type(document: Document, schema: Document) -> str:
    schema = _followed(document, schema)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(document, choice) for choice in schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(document, schema['items'])}"
    return _plain_type(schema)


def _plain_type(schema: Document) -> str:
    match schema:
        case {"const": value}:
            said = f"always {value}"
        case {"enum": values}:
            said = "one of " + ", ".join(map(str, values))
        case {"format": kind}:
            said = str(kind)
        case {"type": kind, "maxLength": longest}:
            said = f"{kind}, at most {longest}"
        case {"type": kind, "pattern": _, "examples": [example, *_]}:
            said = f"{kind} like {example}"
        case _:
            said = str(schema.get("type", "anything"))
    return said
