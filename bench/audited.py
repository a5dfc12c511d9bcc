"""Audits each measurement: `chorus audit`, with the responses that the load received.

A measurement that fails the audit has no figures, only findings.
"""

from typing import Final
from uuid import UUID

from apps import SERVICES
from bench.answers import Answers, Attempt, History
from bench.load import Sent
from bench.processes import Processes
from ops.audit import Urls, audit
from ops.console import console

KEPT_BY_ALL: Final = frozenset({1, 2, 3, 4, 5, 6})
"""The invariants that apply to the baselines too: only Chorus has copies of users, and uses its inboxes."""

KEPT: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9})
"""The invariants that hold in a measurement. Without mail, notifications stay unsent."""

TIMEOUT_SECONDS: Final = 5.0


class FailedAuditError(Exception):
    """A measurement failed the audit. The arguments are the findings."""


def history(sent: Sent) -> History:
    """The responses to the load. An order may exist without a 201: the response was lost, or was an error."""
    unknown = sent.unanswered + sum(sent.statuses.values()) - sent.accepted
    accepted = [Attempt(order_id=UUID(id)) for id in sent.order_ids]
    return History([*accepted, *(Attempt() for _ in range(unknown))])


async def check(processes: Processes, sent: Sent, since: UUID) -> None:
    """Audit all orders since then, when all of them are settled. Raises FailedAuditError."""
    urls = Urls({service: processes.installation.admin_url(service) for service in SERVICES})
    report = await audit(
        urls,
        [Answers(history(sent))],
        at_rest=True,
        timeout_seconds=TIMEOUT_SECONDS,
        since=since,
        numbers=KEPT_BY_ALL if processes.contestant.own_topology else KEPT,
    )
    if not report.clean:
        for child in processes.children.values():  # their folder is removed at the end
            console.print(child.tail(), markup=False)
        raise FailedAuditError(*report.lines())
