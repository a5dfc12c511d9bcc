"""The tree of causes: events, the services that handled them, what these published; and the hops that are missing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chassis.messaging.topology import queue_name
from events.base import rfc3339
from events.money import to_text
from ops.subscriptions import SUBSCRIPTIONS
from ops.trace.facts import Facts, Published, Received, Record
from ops.trace.reasons import Missing, clock, why_not_published, why_not_received, why_not_sent


@dataclass(frozen=True)
class Delivery:
    """An event at a service that subscribes to it."""

    service: str
    queue: str
    received: Received | None
    missing: Missing | None
    caused: "tuple[Node, ...]"
    """What the service published in consequence."""


@dataclass(frozen=True)
class Node:
    """An event, and what followed from it."""

    event: Published
    unpublished: bool
    """Whether it is in the outbox."""
    deliveries: tuple[Delivery, ...]

    def nodes(self) -> "Iterator[Node]":
        """This node and all below it."""
        yield self
        for delivery in self.deliveries:
            for node in delivery.caused:
                yield from node.nodes()


@dataclass(frozen=True)
class Story:
    """What became of an order, a user or a flow."""

    facts: Facts
    roots: tuple[Node, ...]
    """Events without a cause, or whose cause is not known, in the order of time."""
    missing: tuple[Missing, ...]

    @property
    def nodes(self) -> list[Node]:
        """All events, in the order of their commits."""
        found = [node for root in self.roots for node in root.nodes()]
        return sorted(found, key=lambda node: (node.event.committed_at, node.event.id))


def compose(facts: Facts) -> Story:
    """The story that the facts make. What each event's subscribers must have received follows from declarations."""
    causes = {id: event.causation_id for id, event in facts.events.items()}
    roots = tuple(
        _node(facts, facts.events[id])
        for id in _in_order(facts)
        if causes[id] not in facts.events or not _is_below(facts, facts.events[id])
    )
    return Story(facts, roots, tuple(_missing(facts, roots)))


def _in_order(facts: Facts) -> list[UUID]:
    return sorted(facts.events, key=lambda id: (facts.events[id].committed_at, id))


def _is_below(facts: Facts, event: Published) -> bool:
    """Whether the publisher of an event subscribes to its cause."""
    assert event.causation_id is not None
    return facts.events[event.causation_id].kind in SUBSCRIPTIONS[event.service]


def _node(facts: Facts, event: Published) -> Node:
    deliveries = []
    for service, kinds in SUBSCRIPTIONS.items():
        if event.kind not in kinds:
            continue
        queue, received = queue_name(service, event.kind), facts.received.get((service, event.id))
        missing = None if received else why_not_received(facts, event, service, queue)
        caused = tuple(
            _node(facts, facts.events[id])
            for id in _in_order(facts)
            if facts.events[id].causation_id == event.id and facts.events[id].service == service
        )
        deliveries.append(Delivery(service, queue, received, missing, caused))
    return Node(event, event.row in facts.outbox, tuple(deliveries))


def _missing(facts: Facts, roots: Sequence[Node]) -> Iterator[Missing]:
    found = [
        *_absent(facts),
        *(hop for root in roots for node in root.nodes() for hop in _of_node(facts, node)),
        *(hop for one in facts.notifications if (hop := why_not_sent(facts, one))),
    ]
    yield from found or _unfinished(facts)


def _absent(facts: Facts) -> Iterator[Missing]:
    for kind, subject, at in facts.absent:
        yield Missing("event log", "event log", f"has no {kind} about {subject} of {clock(at)}")
    for id, order in facts.orders.items():
        if order is None:
            yield Missing("order", "orders", f"does not know order {id}, of which others do")


def _of_node(facts: Facts, node: Node) -> Iterator[Missing]:
    lacking = [delivery.missing for delivery in node.deliveries if delivery.missing]
    yield from lacking
    if node.unpublished and not lacking:
        yield why_not_published(facts, node.event)


def _unfinished(facts: Facts) -> Iterator[Missing]:
    """What has no explanation: a service handled an event, and what must follow is not there."""
    for id, order in facts.orders.items():
        if order and order["status"] == "pending":
            reason = "is pending, and every event of it that is known was handled"
            yield Missing("order", f"order {id}", reason)
    kinds = {(one["order_id"], one["kind"]) for one in facts.notifications}
    due = {"paid": ["joy"], "rejected": ["sorrow"], "refunded": ["joy", "refund"]}
    for id, charge in facts.charges.items():
        for kind in due.get(charge["status"], ()):
            if (id, kind) not in kinds:
                yield Missing("notification", f"{kind} notification of {id}", "does not exist")


def document(story: Story) -> dict[str, Any]:
    """The story for JSON: events in the order of commits, each with its cause and its deliveries; tables' rows."""
    facts = story.facts
    return {
        "complete": not story.missing,
        "missing": [_plain(vars(one)) for one in story.missing],
        "events": [_event(node) for node in story.nodes],
        "users": [_plain(one) for one in facts.users],
        "orders": [_plain(one) for one in facts.orders.values() if one],
        "charges": [_plain(one) for one in facts.charges.values()],
        "transfers": [_plain(one) for one in facts.ledger],
        "notifications": [_plain(one) for one in facts.notifications],
    }


def _event(node: Node) -> dict[str, Any]:
    event = node.event
    deliveries = [
        {
            "service": one.service,
            "queue": one.queue,
            "handledAt": rfc3339(one.received.at) if one.received else None,
            "batch": one.received.batch if one.received else None,
            "missing": _plain(vars(one.missing)) if one.missing else None,
        }
        for one in node.deliveries
    ]
    attributes = event._asdict() | {"service": event.service}
    attributes["type"] = attributes.pop("name")
    return _plain(attributes) | {"published": not node.unpublished, "deliveries": deliveries}


MONEY = {"amount", "balance", "total"}


def _plain(record: Record) -> dict[str, Any]:
    """A row for JSON, with camelCase names, and money as decimal strings."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        first, *others = name.split("_")
        key = first + "".join(word.title() for word in others)
        if name in MONEY and value is not None:
            found[key] = to_text(value)
        elif hasattr(value, "isoformat"):
            found[key] = rfc3339(value)
        else:
            found[key] = str(value) if isinstance(value, UUID) else value
    return found
