"""How a broker's topology differs from a declared one: a comparison of lists that its management API gives."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from chassis.messaging.topology import Topology

POLICIES: Final = {"policies": "policy", "operator-policies": "operator policy"}
"""Path in the management API, and what it lists. Chorus needs none: each would bend what a queue is declared to be."""

LISTS: Final = ("exchanges", "queues", "bindings", *POLICIES)
"""What a comparison reads: `/api/<list>/<vhost>` of each."""

Lists = Mapping[str, Sequence[Mapping[str, Any]]]
"""The lists of one vhost, by their paths."""


def topology_differences(wanted: Topology, found: Lists) -> Iterator[str]:
    """A line for each difference.

    What else there is on the broker, such as a queue bound to an exchange of Chorus, is no difference. Raises KeyError
    or TypeError if `found` is not what the management API answers.
    """
    exchanges = {one["name"]: (one["type"], one["durable"]) for one in found["exchanges"]}
    yield from compared("exchange", dict.fromkeys(wanted.exchanges, ("topic", True)), exchanges)
    queues = {one["name"]: one["arguments"] for one in found["queues"]}
    yield from compared("queue", {one.name: one.arguments for one in wanted.queues}, queues)
    yield from _bindings(wanted, found["bindings"])
    for path, name in POLICIES.items():
        yield from _policies(name, wanted, found[path])


def compared(kind: str, wanted: Mapping[str, object], found: Mapping[str, object]) -> Iterator[str]:
    """A line for each of what is wanted, by its name, that is missing or otherwise."""
    for name, value in wanted.items():
        if name not in found:
            yield f"{kind} {name}: missing"
        elif found[name] != value:
            yield f"{kind} {name}: {found[name]} instead of {value}"


def _bindings(wanted: Topology, found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Missing bindings, and others that lead to a queue or an exchange of Chorus."""
    declared = {
        (exchange, key, one.name) for one in wanted.queues for exchange, key in one.bindings
    }
    ours = {*wanted.exchanges, *(one.name for one in wanted.queues)}
    bound = {
        (one["source"], one["routing_key"], one["destination"])
        for one in found
        if one["source"] and one["destination"] in ours
    }
    for exchange, key, name in declared - bound:
        yield f"binding {exchange} -> {name} ({key}): missing"
    for exchange, key, name in bound - declared:
        yield f"binding {exchange} -> {name} ({key}): not declared"


def _policies(kind: str, wanted: Topology, found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    queues = [one.name for one in wanted.queues]
    for policy in found:
        names = {"exchanges": wanted.exchanges, "all": (*queues, *wanted.exchanges)}
        for name in names.get(policy["apply-to"], queues):
            if _matches(policy["pattern"], name):
                yield f"{kind} {policy['name']}: applies to {name}: {policy['definition']}"


def _matches(pattern: str, name: str) -> bool:
    """Whether RabbitMQ's regular expression matches. It may if it is none of Python's."""
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True
