"""What an invariant says: something is wrong, and about what."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ops.audit.facts import Facts, Kind, Subject


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation of an invariant. Without a subject it is about the whole."""

    text: str
    subject: Subject | None = None


Findings = Iterator[Finding]


def wrong(kind: Kind, id: UUID, text: str) -> Finding:
    """Something is wrong about one thing; its kind and id are the beginning of the sentence."""
    return Finding(f"{kind} {id} {text}", Subject(kind, id))


@dataclass(frozen=True, slots=True)
class Invariant:
    """One of the nine: what holds, and the function of facts that says where it does not."""

    number: int
    name: str
    holds: Callable[[Facts], Findings]


NUMBERS: Final = frozenset(range(1, 10))
