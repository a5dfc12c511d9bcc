"""Events as they were once published: `golden/<key>.json` in full, `golden/<key>.<variant>.json` with less.

A golden file is never edited; a field that is added later gets a golden file of its own.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from events.base import Event
from events.contracts import language

FOLDER: Final = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One body, and the event that it is a body of."""

    name: str
    kind: type[Event]
    body: str
    """Without white space, as it is published."""

    def __str__(self) -> str:
        return self.name

    def event(self) -> Event:
        return self.kind.model_validate_json(self.body)


def _golden(path: Path) -> Golden:
    # order-placed.v1.least.json -> order-placed.v1
    key = ".".join(path.name.split(".")[:2])
    return Golden(path.stem, language()[key], compact(json.loads(path.read_text())))


def compact(body: Any) -> str:
    """JSON as pydantic writes it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


@cache
def goldens() -> tuple[Golden, ...]:
    """All of them."""
    return tuple(map(_golden, sorted(FOLDER.glob("*.json"))))


def of(kind: type[Event]) -> list[Golden]:
    """Those of one event."""
    return [golden for golden in goldens() if golden.kind is kind]
