"""The harness that breaks everything: its schedule is a function of the seed, and its verdict can be each of three."""

from collections import Counter

import pytest

from chassis.crash_points import POINTS as CRASH_POINTS
from tests.chaos.schedule import CALM_SECONDS, KINDS, POINTS, schedule
from tests.chaos.verdict import GREEN, INVALID, RED, Report


def a_report(**different: object) -> Report:
    """Of half an hour in which all is well, but for what is named."""
    report = Report(7, 30)
    report.faults.update(dict.fromkeys(KINDS, 20))
    report.accepted, report.recovery = 100_000, 2.0
    for name, value in different.items():
        setattr(report, name, value)
    return report


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert schedule(7, 3) == schedule(7, 3)
    assert schedule(7, 3) != schedule(8, 3)


@pytest.mark.parametrize("minutes", [0.5, 3, 30])
def test_every_kind_comes_often_enough_and_in_time(minutes: float) -> None:
    faults = schedule(7, minutes)
    counted = Counter(fault.kind for fault in faults)
    assert counted.keys() == {*KINDS}
    assert min(counted.values()) >= minutes * 10 / 30
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert faults[0].at >= CALM_SECONDS
    assert faults[-1].at <= minutes * 60 - CALM_SECONDS


def test_half_an_hour_has_every_variety_of_each_kind() -> None:
    varieties = {(fault.kind, fault.target) for fault in schedule(7, 30)}
    assert {(kind, t) for kind, t in varieties if kind == "malformed message"} == {
        ("malformed message", t)
        for t in ("truncated", "unknown version", "unknown fields", "a megabyte", "another type")
    }
    assert {t for kind, t in varieties if kind == "alarm"} == {"memory", "disk"}
    assert {t for kind, t in varieties if kind == "mail"} == {"gone", "slow", "later"}


def test_it_sets_existing_crash_points() -> None:
    assert {point for point, _ in POINTS} <= {*CRASH_POINTS}


def test_a_run_in_which_all_is_well_is_green() -> None:
    assert (a_report().status, a_report().verdict) == (GREEN, "green")


@pytest.mark.parametrize(
    "different",
    [
        {"accepted": 0},
        {"faults": Counter(dict.fromkeys(KINDS, 199 // len(KINDS)))},
        {"faults": Counter({**dict.fromkeys(KINDS, 20), "alarm": 9})},
    ],
    ids=["orders", "faults", "a kind"],
)
def test_a_run_with_too_little_is_invalid(different: dict[str, object]) -> None:
    assert a_report(**different).status == INVALID


@pytest.mark.parametrize(
    "different",
    [
        {"lost": ["an order"]},
        {"doubled": ["an order"]},
        {"violations": ["a balance"]},
        {"recovery": None},
        {"recovery": 31.0},
        {"violations": ["a balance"], "accepted": 0},
    ],
    ids=str,
)
def test_a_run_in_which_something_is_wrong_is_red(different: dict[str, object]) -> None:
    assert a_report(**different).status == RED


def test_findings_are_sorted_into_lost_doubled_and_violations() -> None:
    report = a_report()
    report.sort_out(
        [
            "3 every accepted order: order 1 was accepted and is lost: ...",
            "4 paid orders: order 1 has 2 transfers of kind payment",
            "1 the ledger adds up: transfer 2 sums to 3, not 0",
        ]
    )
    assert [len(found) for found in (report.lost, report.doubled, report.violations)] == [1, 1, 1]
