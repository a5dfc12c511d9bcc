"""The invariants about how events travel: nothing is left over, and what was told was heard."""

from itertools import permutations
from typing import Final

from apps import SERVICES
from chassis.messaging.topology import DEAD
from ops.audit.facts import Facts, born
from ops.audit.findings import Finding, Findings, wrong
from ops.subscriptions import SUBSCRIPTIONS

HEARS_WHAT: Final = {service: set(SUBSCRIPTIONS[service]) for service in SERVICES}

HEARS_AS_WELL: Final = [
    (one, other) for one, other in permutations(SERVICES, 2) if HEARS_WHAT[one] <= HEARS_WHAT[other]
]
"""Pairs of services where the second one hears whatever the first one hears."""


def nothing_is_left_over(facts: Facts) -> Findings:
    """Nothing stays in an outbox, nothing is parked. At rest all is empty, and every letter has its end."""
    resting = not facts.grace
    for service, waiting in facts.outboxes.items():
        if waiting.overdue:
            yield Finding(f"{waiting.overdue} events stay in the outbox of {service}")
    for queue, messages in (facts.queues or {}).items():
        if messages and (resting or queue.endswith(f".{DEAD}")):
            yield Finding(f"{messages} messages lie in {queue}")
    if resting and facts.open_letters:
        yield Finding(f"{facts.open_letters} letters are not sent")


def what_was_told_was_heard(facts: Facts) -> Findings:
    """By everyone who hears it; and nobody has heard what nobody has told."""
    for id, services in facts.received.items():
        for one, other in HEARS_AS_WELL:
            if one in services and other not in services and not facts.in_flight(born(id)):
                yield wrong("event", id, f"was heard by {one} and not by {other}")
    yield from _invented(facts)
    for letter in facts.letters:
        if not letter.received:
            yield wrong("letter", letter.id, f"tells of event {letter.causation_id}, never heard")
    if facts.journal is not None:
        yield from _by_the_journal(facts)


def _invented(facts: Facts) -> Findings:
    """Services that have heard more than was told.

    No table says how many signing keys were told of, but all hear of them: what a service has heard beside its other
    events is as much as the others have.
    """
    retold = len(facts.history.retold) if facts.history else 0
    beside = {
        service: received - told - retold for service, (received, told) in facts.counted.items()
    }
    for service, count in beside.items():
        others = [
            received - told for other, (received, told) in facts.counted.items() if other != service
        ]
        if count > max(others):
            yield Finding(f"{service} has heard {count - max(others)} events that nobody has told")


def _by_the_journal(facts: Facts) -> Findings:
    for service in SERVICES:
        told = {h.id for h in facts.journal or () if isinstance(h.event, SUBSCRIPTIONS[service])}
        received = {id for id, services in facts.received.items() if service in services}
        if lost := told - received:
            yield Finding(f"{service} has never heard {lost}")
        if invented := received - told:
            yield Finding(f"{service} has heard {invented}, which nobody has told")
