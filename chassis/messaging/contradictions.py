"""Contradictions: events that differ from what their consumer has recorded. None is skipped silently.

If the publisher owns the fact, and has decided anew after its database was restored, a consumer follows the later
decision and reports that they differ. If the consumer owns it, the event is not acted on: it raises ContradictionError
and is dead-lettered. Both are counted.
"""

from functools import partial

import structlog
from prometheus_client import Counter

from chassis.database.transaction import Transaction

log = structlog.get_logger(__name__)

CONTRADICTIONS = Counter(
    "chorus_contradictions_total",
    "Events that contradict what the service has recorded.",
    ["service"],
)


class ContradictionError(Exception):
    """An event contradicts its consumer's own records: it is not acted on."""


def report(tx: Transaction, service: str, **facts: object) -> None:
    """Log and count a contradiction once the transaction is durable. `facts` have no secrets and no row contents."""
    tx.after_commit.append(partial(_report, service, facts))


def _report(service: str, facts: dict[str, object]) -> None:
    CONTRADICTIONS.labels(service).inc()
    log.error(
        "consumer.contradiction", service=service, **{name: str(one) for name, one in facts.items()}
    )
