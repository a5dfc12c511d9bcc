"""Prometheus accepts the alarm rules, and raises them as tests.yml expects."""

import subprocess

from tests.architecture.code import ROOT
from tests.support.programs import program


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    promtool = program("promtool", "prometheus")
    for command in (["check", "rules", "chorus.yml"], ["test", "rules", "tests.yml"]):
        done = subprocess.run(
            [promtool, *command],
            cwd=ROOT / "infra/alarms",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
