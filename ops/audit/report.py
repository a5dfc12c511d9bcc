"""What an audit has found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ops.audit.findings import Finding


@dataclass(frozen=True)
class Checked:
    """What became of one invariant."""

    number: int
    name: str
    rows: int
    """How many rows it went through."""
    findings: Sequence[Finding]


@dataclass(frozen=True)
class Report:
    """All invariants at the end of an audit."""

    seconds: float
    looks: int
    suspects: int
    """How many things looked odd at the first look; most are only on their way."""
    more: bool
    """Whether there were so many that not all were looked at."""
    in_flight: int
    """Orders that were pending at the first look."""
    queues: Mapping[str, int] | None
    """Messages by queue; None if the broker could not be asked."""
    waiting: Mapping[str, int]
    """Rows in each service's outbox."""
    open_letters: int
    invariants: Sequence[Checked]

    @property
    def clean(self) -> bool:
        """Whether every invariant holds."""
        return not any(one.findings for one in self.invariants)

    @property
    def violated(self) -> list[int]:
        """The numbers of the invariants that do not hold."""
        return [one.number for one in self.invariants if one.findings]

    def lines(self) -> list[str]:
        """A line for each finding: "4 paid orders and debits are the same: order ... ."."""
        return [
            f"{one.number} {one.name}: {finding.text}"
            for one in self.invariants
            for finding in one.findings
        ]

    def as_json(self, examples: int) -> dict[str, Any]:
        """The report as JSON has it, with up to so many examples of each invariant's findings."""
        return {
            "clean": self.clean,
            "seconds": round(self.seconds, 3),
            "looks": self.looks,
            "suspects": self.suspects,
            "more": self.more,
            "inFlight": self.in_flight,
            "queues": None if self.queues is None else dict(self.queues),
            "outboxes": dict(self.waiting),
            "openLetters": self.open_letters,
            "invariants": [
                {
                    "number": one.number,
                    "name": one.name,
                    "checked": one.rows,
                    "violations": len(one.findings),
                    "examples": [_example(finding) for finding in one.findings[:examples]],
                }
                for one in self.invariants
            ],
        }


def _example(finding: Finding) -> dict[str, str]:
    if finding.subject is None:
        return {"text": finding.text}
    return {"kind": finding.subject.kind, "id": str(finding.subject.id), "text": finding.text}
