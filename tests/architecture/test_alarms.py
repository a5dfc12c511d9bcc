"""The alarms speak of figures that there are, and of places in the runbook that there are."""

import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.architecture.code import ROOT, modules

FILE = ROOT / "infra/alarms/chorus.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["groups"][0]["rules"]


def figures() -> set[str]:
    """The names under which our figures are scraped."""
    found = set()
    for module in modules("events", "chassis", "apps", "ops"):
        for kind in ("Counter", "Gauge", "Histogram", "gauge"):
            for _, call in module.calls(kind):
                if call.args and isinstance(name := getattr(call.args[0], "value", None), str):
                    found |= {name, f"{name}_count", f"{name}_sum", f"{name}_bucket"}
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alarm_is_about_figures_that_there_are(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"chorus_[a-z_]+", rule["expr"]))
    assert named
    assert named <= figures()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alarm_says_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    titles = re.findall(r"^## (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize(
    "figure",
    [
        "chorus_outbox_oldest_seconds",
        "chorus_relay_unroutable",
        "chorus_dead_lettered_total",
        "chorus_queue_messages",
        "chorus_notifications_oldest_seconds",
        "chorus_orders_late",
    ],
)
def test_what_must_not_go_unnoticed_has_an_alarm(figure: str) -> None:
    assert any(figure in rule["expr"] for rule in RULES)
