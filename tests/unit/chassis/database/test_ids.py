"""The ids that a transaction gives: in order, and as good as Python's own."""

from datetime import UTC, datetime
from uuid import UUID

from chassis.database.transaction import Transaction
from events.billing import AccountState


def _ids(count: int) -> list[UUID]:
    tx = Transaction(None, datetime.now(UTC))
    return [tx.new_id() for _ in range(count)]


def test_every_id_is_greater_than_the_one_before() -> None:
    ids = _ids(10_000)
    assert ids == sorted(set(ids))
    assert {UUID(str(id)).version for id in ids} == {7}


def test_an_id_is_the_same_as_pythons_own() -> None:
    [id] = _ids(1)
    own = UUID(str(id))
    assert (id, hash(id)) == (own, hash(own))
    assert {own: "found"}[id] == {id: "found"}[own] == "found"
    state = AccountState(id=id, user_id=own, balance=1, currency="EUR", version=1)
    assert AccountState.model_validate_json(state.model_dump_json()) == state
