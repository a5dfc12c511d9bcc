"""The benchmark's audit finds what is not right, whatever it is, and nothing where all is well."""

from collections import Counter
from dataclasses import replace

import pytest

from bench.audit import Evidence, findings
from bench.load import Sent

RIGHT = Evidence(
    orders=[("a", "paid", 100), ("b", "rejected", 900)],
    charges=[("a", "paid", 100), ("b", "rejected", 900)],
    payments=[("a", 100)],
    letters=[("a", "joy"), ("b", "sorrow")],
    accounts=[("wallet", 400, 400, 400)],
)


def answered(*order_ids: str, refused: int = 0, unanswered: int = 0) -> Sent:
    statuses = Counter({201: len(order_ids), 503: refused})
    return Sent(statuses=statuses, unanswered=unanswered, order_ids=list(order_ids))


def test_where_all_is_well_nothing_is_found() -> None:
    assert findings(RIGHT, answered("a", "b")) == []


def test_an_order_whose_answer_was_lost_or_was_a_refusal_may_exist() -> None:
    assert findings(RIGHT, answered("a", unanswered=1)) == []
    assert findings(RIGHT, answered("a", refused=1)) == []
    assert findings(RIGHT, answered("a", "b", unanswered=1)) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"orders": RIGHT.orders[:1]}, "1 orders were accepted and are not there, such as b"),
        ({"orders": [("a", "pending", 100), RIGHT.orders[1]]}, "1 orders are still pending"),
        ({"charges": RIGHT.charges[:1]}, "1 orders and what billing decided differ"),
        ({"charges": [("a", "paid", 99), RIGHT.charges[1]]}, "orders and what billing decided"),
        (
            {"charges": [("a", "rejected", 100), RIGHT.charges[1]]},
            "orders and what billing decided",
        ),
        ({"payments": []}, "1 paid orders and debits differ"),
        ({"payments": [("a", 99)]}, "1 paid orders and debits differ"),
        ({"payments": [("a", 100), ("b", 900)]}, "1 paid orders and debits differ, such as b"),
        ({"payments": [("a", 100), ("a", 100)]}, "1 orders were debited twice"),
        ({"letters": RIGHT.letters[:1]}, "1 letters are missing, such as b"),
        ({"letters": [*RIGHT.letters, ("c", "joy")]}, "1 letters are about nothing, such as c"),
        ({"letters": [("a", "sorrow"), ("b", "sorrow")]}, "1 letters are missing, such as a"),
        ({"letters": [*RIGHT.letters, ("a", "joy")]}, "1 letters were written twice"),
        ({"accounts": [("wallet", 300, 400, 300)]}, "1 balances differ from their ledgers"),
        ({"accounts": [("wallet", 400, 400, 500)]}, "1 balances are not deposits less payments"),
    ],
)
def test_what_is_not_right_is_found(change: dict[str, list[tuple[str, ...]]], found: str) -> None:
    said = findings(replace(RIGHT, **change), answered("a", "b"))
    assert any(found in finding for finding in said), said


def test_an_order_that_nobody_placed_is_found() -> None:
    assert findings(RIGHT, answered("a")) == ["1 orders are there that nobody placed, such as b"]


def test_two_orders_under_one_id_are_found() -> None:
    assert "two orders were accepted under one id" in findings(RIGHT, answered("a", "b", "b"))
