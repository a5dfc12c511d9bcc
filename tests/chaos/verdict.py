"""The result of a run: its figures, and whether they allow a verdict."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.chaos.schedule import KINDS

GREEN, RED, INVALID = 0, 1, 3
"""Exit statuses. Invalid: too little happened for a verdict. (2 is a wrong command line.)"""

FAULTS_PER_MINUTE: Final = 200 / 30
EACH_KIND_PER_MINUTE: Final = 10 / 30
"""The least that makes a run valid, from what half an hour must show. How many orders were accepted depends on what
else the machine has to do: it is reported, and only a run without any is invalid."""

LOST: Final = ("is lost", "never received", "has nothing")
DUPLICATES: Final = ("same command", "transfers of kind", " times (", "extra copies", "gave order")
"""What findings of the audit, and of customers, say of things that are lost or doubled."""

RECOVERY_SECONDS: Final = 30.0
"""Within this time of the last fault's end every outbox must be empty."""


@dataclass
class Report:
    """What a run has shown."""

    seed: int
    minutes: float
    faults: Counter[str] = field(default_factory=Counter)
    """Faults that were done, by kind."""
    varieties: Counter[str] = field(default_factory=Counter)
    """The same, by what was done to whom."""
    ok: int = 0
    failed: int = 0
    """Requests that were answered with a refusal."""
    unknown: int = 0
    """Requests without an answer. Nobody knows what became of them, until they are sent again."""
    accepted: int = 0
    """Orders that were accepted."""
    paid: int = 0
    events: int = 0
    emails: int = 0
    looks: int = 0
    """How often the ledger was audited during the run."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    extra_copies: int = 0
    """E-mails that arrived more than once, with the same Message-ID."""
    journal_gaps: int = 0
    """Events that were published and received, but that the stream `journal` does not contain."""
    longest_stall: float = 0.0
    """Seconds between two accepted orders, at most."""
    recovery: float | None = None
    """Seconds from the end of the last fault until every outbox was empty; None if that did not come."""

    @property
    def shortfalls(self) -> list[str]:
        """Why the run allows no verdict."""
        found = []
        if not self.accepted:
            found.append("no order was accepted")
        if self.faults.total() < FAULTS_PER_MINUTE * self.minutes:
            found.append(f"only {self.faults.total()} faults were done")
        found += [
            f"only {self.faults[kind]} times: {kind}"
            for kind in KINDS
            if self.faults[kind] < int(EACH_KIND_PER_MINUTE * self.minutes)
        ]
        return found

    @property
    def wrong(self) -> list[str]:
        """What must not be."""
        found = [*self.lost, *self.doubled, *self.violations]
        if self.recovery is None or self.recovery > RECOVERY_SECONDS:
            found.append(f"outboxes were not empty {RECOVERY_SECONDS:.0f} s after the last fault")
        return found

    @property
    def status(self) -> int:
        """The exit status: what is wrong counts, however short the run was."""
        if self.wrong:
            return RED
        return INVALID if self.shortfalls else GREEN

    @property
    def verdict(self) -> str:
        """In a word."""
        return {GREEN: "green", RED: "red", INVALID: "invalid"}[self.status]

    def sort_out(self, findings: Sequence[str]) -> None:
        """Take what the audit found: what is lost, what is doubled, and everything else."""
        for finding in findings:
            if any(word in finding for word in LOST):
                self.lost.append(finding)
            elif any(word in finding for word in DUPLICATES):
                self.doubled.append(finding)
            else:
                self.violations.append(finding)

    def lines(self) -> list[str]:
        """For a person."""
        kinds = ", ".join(f"{kind} {self.faults[kind]}" for kind in KINDS)
        recovery = "not" if self.recovery is None else f"after {self.recovery:.1f} s"
        return [
            f"seed {self.seed}, {self.minutes:g} minutes",
            f"faults: {self.faults.total()} ({kinds})",
            f"requests: ok {self.ok:,}, refused {self.failed:,}, unknown {self.unknown:,}",
            f"orders accepted {self.accepted:,}, {self.accepted / self.minutes:,.0f} a minute; paid {self.paid:,}",
            f"events {self.events:,}; e-mails {self.emails:,}",
            f"the ledger was audited {self.looks} times during the run",
            f"lost {len(self.lost)}, doubled {len(self.doubled)}, violations {len(self.violations)}",
            f"extra copies of e-mails {self.extra_copies}; events that the journal misses {self.journal_gaps}",
            f"longest stall {self.longest_stall:.1f} s; outboxes empty {recovery}",
            *(f"wrong: {finding[:400]}" for finding in self.wrong[:20]),
            *(f"too little: {shortfall}" for shortfall in self.shortfalls),
            f"verdict: {self.verdict}",
        ]

    def as_json(self) -> dict[str, Any]:
        """For a machine."""
        return {**vars(self), "verdict": self.verdict, "shortfalls": self.shortfalls}
