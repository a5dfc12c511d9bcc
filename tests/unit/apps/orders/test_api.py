"""The headers and queries of orders."""

from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from apps.orders.api import _wait
from apps.orders.schemas import OrderQuery
from chassis.web.pagination import page_of
from chassis.web.schemas import View


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=0", 0),
        ("wait=10", 10),
        ("wait=30", 30),
        ("wait=31", 30),
        ("wait=999999999", 30),
        ('wait="7"', 7),
        ("Wait=5", 5),
        ("wait = 5", 5),
        (" wait=5 ", 5),
        ("respond-async, wait=10", 10),
        ("wait=10,respond-async", 10),
        ('handling=lenient; strict="no", wait=3', 3),
        ("wait=3; soon", 3),
        ("wait=3, wait=9", 3),
    ],
)
def test_a_preference_to_wait_is_read(prefer: str, seconds: int) -> None:
    assert _wait(prefer) == seconds


@pytest.mark.parametrize(
    "prefer",
    [
        None, "", "wait", "wait=", "wait=-1", "wait=1.5", "wait=ten", "wait=1e3", "wait=10x", "wait='5'", 'wait="5',
        "wait=٣", "await=5", "no-wait=5", "respond-async", "foo; wait=5", 'foo="wait=5"', 'foo="a, wait=5"',
    ],
)  # fmt: skip
def test_other_preferences_are_ignored(prefer: str | None) -> None:
    assert _wait(prefer) is None


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": ""}, {"cursor": "nowhere"}, {"cursor": str(UUID(int=1))}, {"cursor": "g" * 32}, {"cursor": "A" * 32},
        {"cursor": "0" * 31}, {"cursor": "0" * 33}, {"cursor": "0" * 32 + "\n"}, {"cursor": "١" * 32},
        {"limit": "0"}, {"limit": "201"}, {"limit": "-1"}, {"limit": "x"}, {"limit": "1.5"}, {"limit": ""},
        {"status": "lost"}, {"status": ""}, {"userId": str(UUID(int=1))}, {"Cursor": "0" * 32},
    ],
    ids=repr,
)  # fmt: skip
def test_an_invalid_order_query_is_refused(query: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OrderQuery.model_validate(query)


def test_a_query_is_read() -> None:
    assert OrderQuery.model_validate({}).limit == 50
    assert OrderQuery.model_validate({}).before() is None
    query = OrderQuery.model_validate({"cursor": UUID(int=7).hex, "limit": "200", "status": "paid"})
    assert (query.before(), query.limit, query.status) == (UUID(int=7), 200, "paid")


class Row:
    def __init__(self, number: int) -> None:
        self.id = UUID(int=number)


class RowView(View):
    id: UUID


@pytest.mark.parametrize(("there", "shown", "more"), [(0, 0, False), (2, 2, False), (3, 2, True)])
def test_a_page_has_a_cursor_only_if_there_is_a_next_page(
    there: int, shown: int, more: bool
) -> None:
    rows = [Row(number) for number in range(there, 0, -1)]
    page = page_of(rows, 2, lambda row: RowView(id=row.id))
    assert [item.id for item in page.items] == [row.id for row in rows[:shown]]
    assert page.next_cursor == (rows[1].id.hex if more else None)
