"""Whether everything that was measured is also right: `chorus audit`, with what the load was answered.

A run that fails here has no figures, only findings.
"""

from typing import Final
from uuid import UUID

from apps import SERVICES
from bench.cast import Cast
from bench.load import Sent
from ops.audit import Attempt, History, Urls, audit

KEPT_BY_ALL: Final = frozenset({1, 2, 3, 4, 5, 6})
"""The invariants that say something about the other builds, too: only Chorus has copies, and inboxes in use."""

KEPT: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 9})
"""Those that hold in a measurement. Without mail letters are left over."""

TIMEOUT_SECONDS: Final = 5.0


class FailedAuditError(Exception):
    """What was measured is not right. The arguments are the findings."""


def history(sent: Sent) -> History:
    """What the load was answered. A refusal for want of room, or none at all, may hide an order."""
    unknown = sent.unanswered + sum(sent.statuses.values()) - sent.accepted
    accepted = [Attempt(order_id=UUID(id)) for id in sent.order_ids]
    return History([*accepted, *(Attempt() for _ in range(unknown))])


async def check(cast: Cast, sent: Sent, since: UUID) -> None:
    """Go through all orders since then, every one of which is settled. Raises FailedAuditError."""
    urls = Urls({service: cast.installation.admin_url(service) for service in SERVICES})
    report = await audit(
        urls,
        history(sent),
        at_rest=True,
        timeout_seconds=TIMEOUT_SECONDS,
        since=since,
        numbers=KEPT_BY_ALL if cast.contestant.own_topology else KEPT,
    )
    if not report.clean:
        raise FailedAuditError(*report.lines())
