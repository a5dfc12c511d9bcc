"""The figures of the benchmark: percentiles, medians, schedules, tables, charts."""

from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench import targets
from bench.charts import Bar, bars
from bench.down import QUESTIONS
from bench.down import table as outages
from bench.figures import Percentiles, Spread, milliseconds, number, percentile, spread
from bench.load import order_id_in, poisson
from bench.measure import id_of
from bench.page import text
from bench.plan import Plan
from bench.recovery import seconds_to_recover
from bench.tables import Outcome, Table

TABLE = Table(
    "Rates", ("", "settled/s"), [("Chorus", "3,000"), ("this | that", "[1] to 2")], ["A note."]
)


class TestPercentiles:
    @pytest.mark.parametrize(
        ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (100, 100)]
    )
    def test_a_percentile_is_the_least_value_with_so_many_below_or_equal(
        self, percent: float, expected: float
    ) -> None:
        assert percentile(list(range(100, 0, -1)), percent) == expected

    def test_the_99th_of_few_values_is_the_maximum(self) -> None:
        assert Percentiles.of([3.0, 1.0, 2.0]) == Percentiles(count=3, p50=2.0, p99=3.0, most=3.0)

    def test_no_values_are_an_error(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            percentile([], 50)
        with pytest.raises(ValueError, match="no values"):
            Spread.of([])

    def test_a_spread_is_the_median_between_the_extremes(self) -> None:
        assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)
        assert spread(Spread.of([5000.0, 1000.0, 2000.0])) == "2,000 (1,000-5,000)"
        assert spread(Spread.of([2.0])) == "2.00"

    @pytest.mark.parametrize(
        ("value", "formatted"),
        [(0, "0"), (0.1234, "0.123"), (4.556, "4.56"), (78.94, "78.9"), (1234.5, "1,234")],
    )
    def test_a_number_has_three_significant_digits(self, value: float, formatted: str) -> None:
        assert number(value) == formatted
        assert milliseconds(value / 1000) == formatted


class TestSchedule:
    def test_the_seed_determines_the_schedule(self) -> None:
        assert poisson(100, 2, seed=1) == poisson(100, 2, seed=1) != poisson(100, 2, seed=2)

    def test_the_schedule_is_ascending_within_the_time_at_about_the_rate(self) -> None:
        schedule = poisson(500, 10, seed=1)
        assert schedule == sorted(schedule)
        assert schedule[0] > 0
        assert schedule[-1] < 10
        assert len(schedule) == pytest.approx(5000, rel=0.1)

    def test_there_is_at_least_one_order(self) -> None:
        assert len(poisson(0.001, 1, seed=1)) == 1


class TestRecovery:
    def steady(self, begin: float, end: float, rate: int = 100) -> list[float]:
        return [begin + n / rate for n in range(round((end - begin) * rate))]

    def test_an_unchanged_rate_takes_no_time(self) -> None:
        assert seconds_to_recover(self.steady(0, 8), before=100, within=8) == 0

    def test_recovery_ends_with_the_rate_of_before(self) -> None:
        done = [*self.steady(0, 0.2), *self.steady(3, 8)]
        assert seconds_to_recover(done, before=100, within=8) == pytest.approx(3.5, abs=0.11)

    def test_half_the_rate_is_no_recovery(self) -> None:
        assert seconds_to_recover(self.steady(2, 8, rate=50), before=100, within=8) is None


def test_the_id_of_a_time_is_less_than_later_ids() -> None:
    moment = id_of(1_700_000_000.001)
    assert moment.hex == "018bcfe56801" + "0" * 20
    assert id_of(1_700_000_000.002) > moment


def test_the_order_id_is_found_without_parsing_the_response() -> None:
    id = "01a203d6-5f93-7334-be2f-0e1c4a991c6e"
    assert order_id_in(b'{"orderId":"%s","status":"pending"}' % id.encode()) == id
    assert order_id_in(b'{"detail":"no"}') == ""


class TestTables:
    def test_a_table_is_markdown(self) -> None:
        assert TABLE.markdown() == (
            "|  | settled/s |\n|---|---:|\n| Chorus | 3,000 |\n| this \\| that | [1] to 2 |\n\nA note.\n"
        )

    def test_a_table_is_printed_without_markup(self) -> None:
        console = Console(width=80)
        with console.capture() as shown:
            TABLE.show(console)
        for part in ("Rates", "Chorus", "3,000", "this | that", "[1] to 2", "A note."):
            assert part in shown.get()

    def test_the_targets_table_shows_what_holds(self) -> None:
        rows = {row[0]: row for row in targets.table({"http_only": 8.2, "hot": 0.5}).rows}
        assert rows["settled orders/s against HTTP only, without mail"][1:] == (
            "≥ 8 x", "8.20 x", "yes",
        )  # fmt: skip
        assert rows["one hot account against 64 accounts"][3] == "no"
        assert rows["processor time per settled order, all processes"][2:] == (
            "not measured",
            "-",
        )
        assert len(rows) == len(targets.TARGETS)
        assert len(targets.table({"hot": 1.0}, complete=False).rows) == 1

    def test_shortfalls_name_their_reason(self) -> None:
        assert list(targets.shortfalls({"http_only": 8.2, "usual": 26.0})) == []
        short = {"http_only": 3.0, "usual": 20.0, "recovery": 7.0, "hot": 0.5}
        same, unknown, started = targets.shortfalls(short)
        assert "HTTP only, without mail; settled" in same
        assert "usual event-driven build**: Every contestant" in same
        assert "restarted after a second" in started
        assert unknown == "**one hot account against 64 accounts**: the reason is unknown."

    def test_the_table_of_outages_has_what_fails_and_a_note_of_the_rest(self) -> None:
        works = dict.fromkeys(QUESTIONS, True)
        found = {
            "billing": {"chorus": works, "usual": works | {"accepted": False}},
            "notifications": {"chorus": works},
        }
        shown = outages({"billing": found["billing"]})
        assert shown.rows == [("without billing: an order is accepted", "yes", "no")]
        assert "a user registers; a user logs in" in shown.notes[0]
        assert "accepted" not in shown.notes[0]
        unmeasured = outages(found).rows[1:]
        assert len(unmeasured) == len(QUESTIONS)
        assert {row[1:] for row in unmeasured} == {("yes", "not measured")}

    def test_the_page_names_its_author_and_the_findings(self) -> None:
        plan = Plan(rounds=3, seconds=4.0, seed=7, quick=False, names=("chorus",))
        outcome = Outcome(
            "Rates", [TABLE], {"hot": 1.0}, {"settled.svg": bars("Rates & more", "orders/s", [])}
        )
        page = text(
            plan,
            {"Python": "3.11"},
            {"settled": outcome},
            ["mail, chorus: a notification is missing"],
        )
        assert "`chorus bench --write` generates this page" in page
        assert "- mail, chorus: a notification is missing" in page
        assert "![Rates & more](images/settled.svg)" in page
        assert TABLE.markdown() in page
        assert "| one hot account against 64 accounts | ≥ 0.9 x | 1.00 x | yes |" in page
        assert "rounds: 3, seconds each: 4, seed: 7" in page
        assert "What limits" not in page
        slow = text(plan, {}, {"settled": Outcome("Rates", [], {"ceiling": 0.3}, {})}, [])
        assert "## Rates" in page
        assert "## Rates" not in slow
        assert "- **settled orders/s against the ceiling**: Both cores" in slow


class TestCharts:
    chart = bars(
        "Rates & more",
        "orders/s",
        [
            Bar("Chorus", Spread(3000, 2500, 3200), ours=True),
            Bar("a < b", Spread(500, 500, 500), note="Chorus: 6.00 x"),
        ],
    )
    picture = ET.fromstring(chart)  # noqa: S314 - of this project
    name = "{http://www.w3.org/2000/svg}"

    def test_all_labels_are_text(self) -> None:
        labels = [element.text for element in self.picture.iter(f"{self.name}text")]
        assert labels == [
            "Rates & more, orders/s",
            "Chorus",
            "3,000",
            "a < b",
            "500 · Chorus: 6.00 x",
        ]
        assert self.picture.find(f"{self.name}title") is not None

    def test_the_length_of_bars_is_proportional(self) -> None:
        ours, theirs = (
            float(bar.get("width", "")) for bar in self.picture.iter(f"{self.name}rect")
        )
        assert ours / theirs == pytest.approx(6, rel=0.01)

    def test_all_bars_are_inside(self) -> None:
        width = float(self.picture.get("viewBox", "").split()[2])
        for element in self.picture.iter(f"{self.name}rect"):
            assert float(element.get("x", "")) + float(element.get("width", "")) < width

    def test_a_chart_without_bars_is_valid(self) -> None:
        ET.fromstring(bars("Nothing", "orders/s", []))  # noqa: S314 - of this project
