"""What a migration may do while processes of the previous release still run: add, and nothing else."""

from typing import Any

import pytest

from tests.contracts.release import breaks

BEFORE: dict[str, Any] = {
    "columns": {"parcels.id": "uuid", "parcels.note": "varchar, nullable", "parcels.weight": "integer, default"},
    "grants": ["parcels SELECT", "parcels INSERT"],
}  # fmt: skip


def after(*grants: str, **columns: str | None) -> dict[str, Any]:
    changed = BEFORE["columns"] | {f"parcels.{name}": kind for name, kind in columns.items()}
    return {
        "columns": {name: kind for name, kind in changed.items() if kind is not None},
        "grants": grants or BEFORE["grants"],
    }


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (after(note=None), "parcels.note is gone"),
        (after(note=None, remark="varchar, nullable"), "parcels.note is gone"),
        (after(weight="bigint, default"), "parcels.weight was integer, is bigint"),
        (after(note="varchar"), "parcels.note is not nullable any more"),
        (after(weight="integer"), "parcels.weight is not default any more"),
        (after(colour="varchar"), "parcels.colour is new and must be given"),
        (after("parcels SELECT"), "no right any more: parcels INSERT"),
    ],
)
def test_a_change_that_the_previous_release_would_fail_on_is_found(
    now: dict[str, Any], expected: str
) -> None:
    assert breaks(BEFORE, now) == [expected]


@pytest.mark.parametrize(
    "now",
    [
        after(),
        after(colour="varchar, nullable"),
        after(colour="varchar, default"),
        after("parcels SELECT", "parcels INSERT", "parcels UPDATE"),
        BEFORE | {"columns": BEFORE["columns"] | {"stamps.id": "uuid"}},
    ],
    ids=["nothing", "nullable", "default", "right", "table"],
)
def test_additions_are_compatible_with_the_previous_release(now: dict[str, Any]) -> None:
    assert breaks(BEFORE, now) == []
