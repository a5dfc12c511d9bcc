"""The comparison of a broker's lists with a declared topology."""

from typing import Any

import pytest

from chassis.messaging.differences import LISTS, topology_differences
from chassis.messaging.topology import Topology, topology
from events.users import UserRegistered

DECLARED = topology({"orders": (UserRegistered,)})


def listed(declared: Topology) -> dict[str, list[dict[str, Any]]]:
    """What the management API answers if everything is as declared."""
    exchanges = [{"name": name, "type": "topic", "durable": True} for name in declared.exchanges]
    queues = [{"name": queue.name, "arguments": queue.arguments} for queue in declared.queues]
    bindings = [
        {"source": exchange, "routing_key": key, "destination": queue.name}
        for queue in declared.queues
        for exchange, key in queue.bindings
    ]
    every: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    return every | {"exchanges": exchanges, "queues": queues, "bindings": bindings}


def policy(pattern: str, apply_to: str = "queues") -> dict[str, Any]:
    return {"name": "p", "pattern": pattern, "apply-to": apply_to, "definition": {"max-length": 1}}


class TestTopologyDifferences:
    def test_what_is_as_declared_has_none(self) -> None:
        assert list(topology_differences(DECLARED, listed(DECLARED))) == []

    @pytest.mark.parametrize("found", [{}, {"exchanges": {"error": "not_found"}}])
    def test_another_answer_is_an_error(self, found: dict[str, Any]) -> None:
        with pytest.raises((KeyError, TypeError)):
            list(topology_differences(DECLARED, found))


class TestPolicies:
    @pytest.mark.parametrize(
        ("bending", "names"),
        [
            (policy("^billing"), set()),
            (policy("^orders[.]dead$"), {"orders.dead"}),
            (policy("^orders[.]dead$", "exchanges"), set()),
            (policy("^orders$", "exchanges"), {"orders"}),
            (policy("^dead$", "all"), {"dead"}),
            (policy("d$", "quorum_queues"), {"orders.dead", "orders.user-registered"}),
            (policy(r"\h"), {"orders.dead", "orders.user-registered", "journal"}),
        ],
    )
    @pytest.mark.parametrize("kind", ["policies", "operator-policies"])
    def test_each_that_applies_is_named(
        self, kind: str, bending: dict[str, Any], names: set[str]
    ) -> None:
        """One whose pattern is no regular expression of Python may apply."""
        found = list(topology_differences(DECLARED, listed(DECLARED) | {kind: [bending]}))
        assert {line.split("applies to ")[1].split(":")[0] for line in found} == names
