"""Alarm rules name metrics and sections of the runbook that exist."""

import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.architecture.code import ROOT, modules

FILE = ROOT / "infra/alarms/chorus.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["groups"][0]["rules"]


def metrics() -> set[str]:
    """The names of our metrics, as they are scraped."""
    found = set()
    for module in modules("events", "chassis", "apps", "ops"):
        for kind in ("Counter", "Gauge", "Histogram", "gauge"):
            for _, call in module.calls(kind):
                if call.args and isinstance(name := getattr(call.args[0], "value", None), str):
                    found |= {name, f"{name}_count", f"{name}_sum", f"{name}_bucket"}
    return found


rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


class TestAlarmRules:
    @rules
    def test_a_rule_names_metrics_that_exist(self, rule: dict[str, Any]) -> None:
        named = set(re.findall(r"chorus_[a-z_]+", rule["expr"]))
        assert named
        assert named <= metrics()

    @rules
    def test_a_rule_links_to_a_section_of_the_runbook(self, rule: dict[str, Any]) -> None:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        titles = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}

    @pytest.mark.parametrize(
        "metric",
        [
            "chorus_outbox_oldest_seconds",
            "chorus_relay_failed_total",
            "chorus_dead_lettered_total",
            "chorus_contradictions_total",
            "chorus_dead_letter_messages",
            "chorus_notifications_oldest_seconds",
            "chorus_orders_late",
            "chorus_topology_differences",
            "chorus_topology_unknown",
        ],
    )
    def test_what_an_operator_must_notice_has_a_rule(self, metric: str) -> None:
        assert any(metric in rule["expr"] for rule in RULES)
