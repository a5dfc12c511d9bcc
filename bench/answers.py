"""A further rule of the audit: orders are what clients asked for and were answered, as tests and benchmarks know it."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from ops.audit.digests import Ids
from ops.audit.findings import Finding, about
from ops.audit.rules import View

NAMED: Final = "SELECT id, user_id, total FROM orders WHERE id = ANY($1)"
UNNAMED: Final = """
SELECT id, user_id, total FROM orders
WHERE id >= $1 AND NOT EXISTS (SELECT FROM unnest($2::uuid[]) AS named WHERE named = id)
"""
REQUESTED: Final = """
SELECT correlation_id, order_id FROM notifications WHERE correlation_id = ANY($1) AND kind IN ('joy', 'sorrow')
"""


@dataclass(slots=True)
class Attempt:
    """One request for an order, and its answer. Neither accepted nor refused: the outcome is unknown.

    What is None was not recorded. Attempts of a user with the same key are one command.
    """

    user_id: UUID | None = None
    total: int | None = None
    key: str | None = None
    correlation_id: str | None = None
    order_id: UUID | None = None
    refused: bool = False


@dataclass(frozen=True)
class History:
    """What clients asked for and were answered. It has every order that was placed since the audit's `since`."""

    attempts: Sequence[Attempt] = ()
    republished: Collection[UUID] = ()
    """Ids of events that were published again under new ids, as a test does: received by all, without effect."""


class _Order(NamedTuple):
    id: UUID
    user_id: UUID
    total: int


@dataclass(frozen=True, eq=False)
class Answers:
    """Each accepted order exists once and as it was asked for; a refused one and one never asked for do not exist."""

    history: History

    async def find(self, view: View, _ids: Ids = None) -> list[Finding]:
        if 3 not in view.numbers:
            return []
        attempts = self.history.attempts
        open_flows = [a.correlation_id for a in attempts if a.order_id is None and a.correlation_id]
        placed = dict(await view.databases["notifications"].rows(REQUESTED, open_flows))
        named = [*{attempt.order_id for attempt in attempts if attempt.order_id is not None}]
        orders = view.databases["orders"]
        accepted = {row["id"]: _Order(*row) for row in await orders.rows(NAMED, named)}
        unnamed = [_Order(*row) for row in await orders.rows(UNNAMED, view.since, named)]
        wrong = {
            *_not_as_answered(attempts, accepted),
            *_not_once(attempts, placed),
            *_never_asked_for(attempts, unnamed),
        }
        return [about(3, "order", id, text) for id, text in sorted(wrong)]


Wrong = Iterator[tuple[UUID, str]]


def _not_as_answered(attempts: Sequence[Attempt], accepted: Mapping[UUID, _Order]) -> Wrong:
    for attempt in attempts:
        if attempt.order_id is None:
            continue
        if (order := accepted.get(attempt.order_id)) is None:
            yield attempt.order_id, f"was accepted and is lost: {attempt}"
        elif attempt.user_id not in (None, order.user_id) or attempt.total not in (
            None,
            order.total,
        ):
            yield order.id, f"differs from what was asked for: {attempt}"


def _not_once(attempts: Sequence[Attempt], placed: Mapping[str, UUID]) -> Wrong:
    """`placed` has the orders of requests whose answer names none, by correlation id."""
    commands: dict[object, set[UUID]] = defaultdict(set)
    named = Counter(attempt.order_id for attempt in attempts)
    for number, attempt in enumerate(attempts):
        made = placed.get(attempt.correlation_id or "")
        if attempt.refused:
            if made is not None:
                yield made, f"exists although it was refused: {attempt}"
            continue
        ids = commands[(attempt.user_id, attempt.key) if attempt.key else number]
        ids |= {id for id in (made, attempt.order_id) if id is not None}
        if attempt.order_id is not None and attempt.key is None and named[attempt.order_id] > 1:
            yield attempt.order_id, "is the answer to two requests"
    for ids in commands.values():
        if len(ids) > 1:
            for id in ids:
                yield id, f"was made by the same command as {len(ids) - 1} others"


def _never_asked_for(attempts: Sequence[Attempt], unnamed: Sequence[_Order]) -> Wrong:
    """Each order that no answer names must be one that a request without an answer may have placed."""
    answered = {(one.user_id, one.key) for one in attempts if one.order_id is not None}
    unanswered = {
        (attempt.user_id, attempt.key or number): (attempt.user_id, attempt.total)
        for number, attempt in enumerate(attempts)
        if attempt.order_id is None and not attempt.refused
        if attempt.key is None or (attempt.user_id, attempt.key) not in answered
    }
    left = Counter(unanswered.values())
    for order in unnamed:
        for candidate in ((order.user_id, order.total), (order.user_id, None), (None, None)):
            if left[candidate] > 0:
                left[candidate] -= 1
                break
        else:
            yield order.id, f"of {order.total} was never asked for"
