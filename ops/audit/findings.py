"""What an audit returns: violations of the nine invariants."""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from uuid import UUID

INVARIANTS: Final = {
    1: "the ledger adds up",
    2: "no balance was ever below zero",
    3: "every accepted order has one outcome",
    4: "paid orders and debits are the same",
    5: "every refusal was justified",
    6: "every outcome has its notification",
    7: "every projection equals its owner's state",
    8: "nothing is left over",
    9: "what was published was received",
}
"""What holds at every time, whatever has failed, by number."""

Kind = Literal["account", "event", "notification", "order", "transfer", "user"]


class Subject(NamedTuple):
    """What a finding is about."""

    kind: Kind
    id: UUID


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation of an invariant. Without a subject it is about the whole system."""

    number: int
    text: str
    subject: Subject | None = None
    in_flight: bool = False
    """Whether it is so recent that messages may still be under way: a candidate, not yet a violation."""

    def __str__(self) -> str:
        return f"{self.number} {INVARIANTS[self.number]}: {self.text}"


def about(number: int, kind: Kind, id: UUID, text: str, *, in_flight: bool = False) -> Finding:
    """A finding about one subject, whose kind and id begin the sentence."""
    return Finding(number, f"{kind} {id} {text}", Subject(kind, id), in_flight)
