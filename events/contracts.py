"""Published contracts: `python -m events.contracts check` compares today's events with those that were published.

Each file of `events/published/` is the contract of one event version, written by `python -m events.contracts write`.
Compatibility holds in both directions: today's readers can read old events, and old readers can read today's. So an
optional field may be added, and an event; any other change is a new version beside the old one. A value added to an
enumeration breaks readers that do not know it; one that is removed breaks the reading of old events.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

import events
from events.base import Event

PUBLISHED: Final = Path(__file__).parent / "published"
PROSE: Final = frozenset({"title", "description", "examples"})
"""Keywords of a schema that are not part of the contract."""

Contract = dict[str, Any]


def language() -> dict[str, type[Event]]:
    """Every event type by routing key, from all modules of this package."""
    for module in pkgutil.iter_modules(events.__path__, "events."):
        if not module.ispkg:
            importlib.import_module(module.name)
    return dict(Event.by_key)


def contract(kind: type[Event]) -> Contract:
    """The contract of an event: its publisher, routing key, name, subject and schema."""
    return {
        "event": kind.__name__,
        "exchange": kind.exchange,
        "key": kind.key,
        "subject": kind.subject_path,
        "dataschema": kind.dataschema,
        "schema": _without({"title"}, kind.model_json_schema()),
    }


def breaches(published: Contract, today: Contract) -> list[str]:
    """Every incompatible change between a published contract and today's, one line each."""
    about = [name for name in published if name != "schema"]
    broken = [
        f"{name}: was {_text(published[name])}, is now {_text(today.get(name))}"
        for name in about
        if published[name] != today.get(name)
    ]
    old, new = (_inlined(_without(PROSE, c["schema"])) for c in (published, today))
    return broken + list(_differences("", old, new))


def _without(names: AbstractSet[str], schema: Any) -> Any:
    """A schema without some of its keywords. Fields and definitions of the same names are kept."""
    if isinstance(schema, list):
        return [_without(names, part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        keyword: {name: _without(names, part) for name, part in value.items()}
        if keyword in {"properties", "$defs"}
        else _without(names, value)
        for keyword, value in schema.items()
        if keyword not in names
    }


def _inlined(schema: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """A schema with every reference replaced by its definition."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    rest = dict(schema)
    definitions = rest.pop("$defs", definitions)
    if definitions and (reference := rest.pop("$ref", None)):
        rest = definitions[reference.rpartition("/")[2]] | rest
    return {keyword: _inlined(value, definitions) for keyword, value in rest.items()}


def _differences(path: str, old: Contract, new: Contract) -> Iterator[str]:
    if "anyOf" in old and "anyOf" in new and len(old["anyOf"]) == len(new["anyOf"]):
        for was, now in zip(old["anyOf"], new["anyOf"], strict=True):
            yield from _differences(path, was, now)
    elif "anyOf" in old or "anyOf" in new:
        yield f"{path}: its type was {_kind(old)}, is now {_kind(new)}"
        return
    nested = ("properties", "required", "anyOf", "items", "enum")
    for name in sorted({*old, *new} - {*nested}):
        if old.get(name) != new.get(name):
            was, now = _text(old.get(name)), _text(new.get(name))
            yield f"{path or 'the event'}: its {name} was {was}, is now {now}"
    yield from _enumerations(path, old.get("enum", []), new.get("enum", []))
    yield from _fields(path, old, new)
    if "items" in old or "items" in new:
        yield from _differences(f"{path}[]", old.get("items", {}), new.get("items", {}))


def _enumerations(path: str, old: list[Any], new: list[Any]) -> Iterator[str]:
    for value in old:
        if value not in new:
            yield f"{path}: the value {_text(value)} was removed"
    for value in new:
        if value not in old:
            yield f"{path}: the value {_text(value)} was added, which readers of today refuse"


def _fields(path: str, old: Contract, new: Contract) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before:
        field = _at(path, name)
        was, now = name in old.get("required", ()), name in new.get("required", ())
        if name not in after:
            yield f"{field}: was removed"
            continue
        if was != now:
            yield f"{field}: was {_need(was)}, is now {_need(now)}"
        yield from _differences(field, before[name], after[name])
    for name in new.get("required", ()):
        if name not in before:
            yield f"{_at(path, name)}: is new and required; a new field must be optional"


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _need(required: bool) -> str:
    return "required" if required else "optional"


def _kind(schema: Contract) -> str:
    parts = schema.get("anyOf", [schema])
    return " or ".join(part.get("type", _text(part)) for part in parts)


def _text(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def read(folder: Path) -> dict[str, Contract]:
    """The contracts of a folder by routing key."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def broken(published: Mapping[str, Contract], today: Mapping[str, Contract]) -> list[str]:
    """Every incompatible change, one line each, with the event that it belongs to."""
    lines = []
    for key, old in published.items():
        found = (
            breaches(old, today[key])
            if key in today
            else ["was removed; a published event stays, a new version is added beside it"]
        )
        lines += [f"{key} ({old['event']}): {line}" for line in found]
    return lines


def unwritten(published: Mapping[str, Contract], today: Mapping[str, Contract]) -> list[str]:
    """Events that are new or compatibly changed, and not written yet; one line each."""
    return [
        f"{key} ({new['event']}): {'has changed' if key in published else 'is new'}"
        for key, new in today.items()
        if published.get(key) != new
    ]


def main(arguments: list[str], folder: Path = PUBLISHED) -> int:
    """Run `check` or `write`; returns the exit status."""
    published = read(folder)
    today = {key: contract(kind) for key, kind in language().items()}
    if lines := broken(published, today):
        return _fail("Published events have changed. Restore them, and add a new version.", lines)
    if arguments == ["write"]:
        for key, new in today.items():
            text = json.dumps(new, indent=2, ensure_ascii=False)
            (folder / f"{key}.json").write_text(f"{text}\n")
        return 0
    if arguments != ["check"]:
        return _fail("usage: python -m events.contracts check|write", [])
    if lines := unwritten(published, today):
        return _fail("Nothing is broken; publish with `make events`:", lines)
    return 0


def _fail(message: str, lines: list[str]) -> int:
    print(message, *(f"  {line}" for line in lines), sep="\n", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
