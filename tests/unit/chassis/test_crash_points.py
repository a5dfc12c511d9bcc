"""Crash points: an invalid one ends the process at its start, and without the variable none crashes."""

import os
import signal
import subprocess
import sys

import pytest

from chassis import crash_points
from chassis.crash_points import POINTS, VARIABLE, Crash


def python(code: str, crash_at: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", f"from chassis import crash_points\n{code}"],
        env=os.environ | {VARIABLE: crash_at},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_process_kills_itself_at_its_point() -> None:
    died = python(
        "try: crash_points.reached('relay.after_confirm', [])\nfinally: print('never')",
        "relay.after_confirm",
    )
    assert died.returncode == -signal.SIGKILL
    assert died.stdout == ""
    assert died.stderr == "crash.reached point=relay.after_confirm\n"


def test_an_unknown_point_ends_the_process_at_its_start() -> None:
    ended = python("print('never')", "relay.after_lunch")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "CHORUS_CRASH_AT=relay.after_lunch" in ended.stderr


def test_without_the_variable_no_point_crashes() -> None:
    assert not crash_points.ARMED
    for point in POINTS:
        crash_points.reached(point, ["OrderPlaced"])


def test_only_the_nth_time_with_the_event_is_due() -> None:
    due = Crash.of("relay.after_confirm:2@OrderPlaced")
    assert not due.is_due("relay.before_commit", ["OrderPlaced"])
    assert not due.is_due("relay.after_confirm", ["OrderPaid", "OrderPlaced"])
    assert not due.is_due("relay.after_confirm", ["OrderPaid"])
    assert due.is_due("relay.after_confirm", ["OrderPlaced"])
    assert not due.is_due("relay.after_confirm", ["OrderPlaced"]), "only once"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "relay",
        "relay.after_confirm:0",
        "relay.after_confirm:-1",
        "relay.after_confirm:",
        "relay.after_confirm@",
        "relay.after_confirm@OrderEaten",
        "relay.after_confirm@joy",
        "dispatcher.after_accept@OrderPlaced",
        "relay.after_confirm, relay.before_commit",
    ],
)
def test_what_can_never_be_reached_is_refused(text: str) -> None:
    with pytest.raises(LookupError, match="CHORUS_CRASH_AT="):
        Crash.of(text)


@pytest.mark.parametrize("point", POINTS)
def test_every_point_is_accepted(point: str) -> None:
    assert Crash.of(f"{point}:3").point == point
