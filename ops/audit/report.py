"""The result of an audit, for people and for programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ops.audit.delivery import Leftovers
from ops.audit.findings import INVARIANTS, Finding


@dataclass(frozen=True)
class Checked:
    """The result for one invariant."""

    number: int
    rows: int
    """How many rows it was evaluated on."""
    findings: Sequence[Finding]

    @property
    def name(self) -> str:
        return INVARIANTS[self.number]


@dataclass(frozen=True)
class Report:
    """All invariants at the end of an audit."""

    seconds: float
    rounds: int
    candidates: int
    """How many differences the first round found; most are only in flight."""
    more: bool
    """Whether a rule found so much that it may not have found all."""
    in_flight: int
    """Orders that were pending in the first round."""
    leftovers: Leftovers
    invariants: Sequence[Checked]

    @property
    def clean(self) -> bool:
        """Whether every invariant holds."""
        return not self.violated

    @property
    def violated(self) -> list[int]:
        """The numbers of the invariants that do not hold."""
        return [one.number for one in self.invariants if one.findings]

    def lines(self) -> list[str]:
        """A line for each finding: "4 paid orders and debits are the same: order ... ."."""
        return [str(finding) for one in self.invariants for finding in one.findings]

    def as_json(self, examples: int) -> dict[str, Any]:
        """The report for JSON, with at most so many examples of each invariant's findings."""
        left = self.leftovers
        return {
            "clean": self.clean,
            "seconds": round(self.seconds, 3),
            "rounds": self.rounds,
            "candidates": self.candidates,
            "more": self.more,
            "inFlight": self.in_flight,
            "queues": None if left.queues is None else dict(left.queues),
            "outboxes": left.outboxes,
            "unsentNotifications": left.unsent,
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

    def as_text(self, examples: int) -> str:
        """The report for a person."""
        lines = [f"{'invariant':<52}{'checked':>12}{'wrong':>8}"]
        for one in self.invariants:
            lines.append(f"{one.number} {one.name:<50}{one.rows:>12,}{len(one.findings):>8,}")
            lines += [f"    {finding.text}" for finding in one.findings[:examples]]
            if len(one.findings) > examples:
                lines.append(f"    and {len(one.findings) - examples:,} more")
        left = self.leftovers
        queues = "queues not available"
        if left.queues is not None:
            queues = f"{sum(left.queues.values()):,} messages in queues"
        waiting = (
            f"{left.unsent:,} notifications, {sum(left.outboxes.values()):,} events in outboxes"
        )
        lines += [
            "",
            f"in flight: {self.in_flight:,} orders, {waiting}, {queues}",
            f"took: {self.seconds:.1f} s; rounds: {self.rounds}; candidates in the first round: {self.candidates:,}",
        ]
        if self.more:
            lines.append("there may be more than was found: repair this, and audit again")
        return "\n".join(lines)


def _example(finding: Finding) -> dict[str, str]:
    if finding.subject is None:
        return {"text": finding.text}
    return {"kind": finding.subject.kind, "id": str(finding.subject.id), "text": finding.text}
