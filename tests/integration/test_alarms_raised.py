"""Prometheus reads the alarms, and raises them when it is told to."""

import subprocess

from tests.architecture.code import ROOT
from tests.support.programs import program


def test_prometheus_raises_what_it_should_and_nothing_else() -> None:
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
