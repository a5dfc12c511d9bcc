"""The rates of the benchmark: medians of rounds, compared round by round."""

from dataclasses import replace

import pytest

from bench.figures import Percentiles, Spread
from bench.measure import Measured, Times
from bench.settled import Rounds, against, bars_of, processor, sent_rate, times_as_fast

ROUND = Measured(
    orders=1000,
    accepted_rate=1200.0,
    settled_rate=1000.0,
    sent_rate=500.0,
    accept=Percentiles.of([0.001]),
    processor={"orders": 0.3, "postgres": 0.2, "load": 0.1},
    machine=0.75,
    memory={"orders": 100_000_000, "postgres": 200_000_000},
    idle_memory={"orders": 90_000_000},
)
ROUNDS: Rounds = {
    "chorus": [ROUND, replace(ROUND, settled_rate=2000.0), replace(ROUND, settled_rate=4000.0)],
    "http_only": [
        replace(ROUND, settled_rate=500.0, sent_rate=250.0),
        replace(ROUND, settled_rate=500.0),
        replace(ROUND, settled_rate=1000.0),
    ],
}


def test_ratios_are_computed_round_by_round() -> None:
    assert against(ROUNDS, "http_only") == Spread(median=4.0, least=2.0, most=4.0)
    assert against(ROUNDS, "http_only", sent_rate) == Spread(median=1.0, least=1.0, most=2.0)


def test_chorus_is_not_compared_with_itself_or_with_failed_contestants() -> None:
    assert against(ROUNDS, "chorus") is None
    assert against(ROUNDS, "usual") is None
    assert times_as_fast(ROUNDS, "chorus") == ""
    assert times_as_fast({"http_only": ROUNDS["http_only"]}, "http_only") == ""


def test_the_processor_time_of_other_programs_is_shown() -> None:
    rows = {row[0]: row[1:] for row in processor(ROUNDS, "Processor time").rows}
    assert rows["orders"] == ("0.300", "0.300")
    assert rows["total"] == ("0.600", "0.600")
    assert rows["other programs"] == ("0.150", "0.150")
    assert "billing" not in rows


def test_bars_show_medians_and_mark_chorus() -> None:
    ours, theirs = bars_of(ROUNDS)
    assert (ours.label, ours.value, ours.note, ours.ours) == (
        "Chorus",
        Spread(2000, 1000, 4000),
        "",
        True,
    )
    assert (theirs.label, theirs.note, theirs.ours) == ("HTTP only", "Chorus: 4.00 x", False)


def test_an_order_is_complete_when_it_is_settled_with_its_notification() -> None:
    times = Times(settled={"a": 1.0, "b": 5.0}, written={"a": 3.0, "b": 4.0}, sent={})
    assert sorted(times.complete()) == [3.0, 5.0]


def test_a_missing_notification_is_an_error() -> None:
    with pytest.raises(KeyError):
        list(Times(settled={"a": 1.0}, written={}, sent={}).complete())
