"""The SQL generated from tables: one statement for many rows, in key order."""

from uuid import UUID

import pytest
from sqlmodel import BigInteger, Field, SQLModel, col, select

from chassis.database.tables import (
    Statements,
    Table,
    Write,
    arrays,
    combined,
    from_record,
    statements,
)


class Parcel(Table, table=True):
    """A table with all kinds of columns."""

    __tablename__ = "test_parcels"

    id: UUID = Field(primary_key=True)
    owner: UUID = Field(unique=True)
    price: int = Field(default=5, sa_type=BigInteger)
    note: str | None = None
    version: int = 1


class Stop(Table, table=True):
    """A table with a composite key."""

    __tablename__ = "test_stops"

    parcel_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    city: str


@pytest.fixture(scope="module", autouse=True)
def remove_tables() -> object:
    yield
    for name in ("test_parcels", "test_stops"):
        SQLModel.metadata.remove(SQLModel.metadata.tables[name])


@pytest.fixture
def parcels() -> Statements:
    return statements(Parcel)


def test_columns_keep_the_order_of_declaration(parcels: Statements) -> None:
    assert parcels.columns == {
        "id": "UUID",
        "owner": "UUID",
        "price": "BIGINT",
        "note": "VARCHAR",
        "version": "INTEGER",
    }
    assert parcels.primary_key == ("id",)
    assert statements(Stop).primary_key == ("parcel_id", "number")


def test_select_reads_and_locks_in_key_order(parcels: Statements) -> None:
    select = (
        "SELECT id, owner, price, note, version FROM test_parcels"
        " WHERE owner = ANY($1::UUID[]) ORDER BY owner"
    )
    assert parcels.select("owner", lock=False) == select
    assert parcels.select("owner", lock=True) == f"{select} FOR NO KEY UPDATE"


def test_a_complete_select_locks_all_rows_or_none(parcels: Statements) -> None:
    assert parcels.select("owner", lock=True, complete=True) == (
        "SELECT id, owner, price, note, version FROM test_parcels WHERE owner = ANY($1::UUID[])"
        " AND cardinality($1) = (SELECT count(*) FROM test_parcels WHERE owner = ANY($1::UUID[]))"
        " ORDER BY owner FOR NO KEY UPDATE"
    )


def test_several_writes_are_combined_into_one_statement() -> None:
    stop, parcel = Write(Stop), Write(Parcel, ("price", "note"))
    assert combined((stop,)) == statements(Stop).insert()
    assert combined((stop, parcel, stop)) == (
        "WITH write_1 AS (INSERT INTO test_stops (parcel_id, number, city)"
        " SELECT * FROM unnest($1::UUID[], $2::INTEGER[], $3::VARCHAR[])),"
        " write_2 AS (UPDATE test_parcels SET price = new.price, note = new.note"
        " FROM unnest($4::UUID[], $5::BIGINT[], $6::VARCHAR[]) AS new(id, price, note)"
        " WHERE test_parcels.id = new.id AND test_parcels.id = ANY($4))"
        " INSERT INTO test_stops (parcel_id, number, city)"
        " SELECT * FROM unnest($7::UUID[], $8::INTEGER[], $9::VARCHAR[])"
    )
    assert statements(Stop).written(()) == ("parcel_id", "number", "city")
    assert statements(Parcel).written(("price", "note")) == ("id", "price", "note")


def test_insert_takes_one_array_for_each_column(parcels: Statements) -> None:
    insert = (
        "INSERT INTO test_parcels (id, owner, price, note, version)"
        " SELECT * FROM unnest($1::UUID[], $2::UUID[], $3::BIGINT[], $4::VARCHAR[], $5::INTEGER[])"
    )
    assert parcels.insert() == insert
    assert parcels.insert_new() == f"{insert} ON CONFLICT DO NOTHING RETURNING id"
    assert statements(Stop).insert_new().endswith(" RETURNING parcel_id, number")


def test_upsert_replaces_only_rows_of_a_lower_version(parcels: Statements) -> None:
    assert parcels.upsert_newer() == (
        f"{parcels.insert()} ON CONFLICT (id) DO UPDATE SET owner = excluded.owner,"
        " price = excluded.price, note = excluded.note, version = excluded.version"
        " WHERE test_parcels.version < excluded.version RETURNING id"
    )


def test_update_sets_the_changed_columns_by_primary_key(parcels: Statements) -> None:
    assert parcels.update(["price", "note"]) == (
        "UPDATE test_parcels SET price = new.price, note = new.note"
        " FROM unnest($1::UUID[], $2::BIGINT[], $3::VARCHAR[]) AS new(id, price, note)"
        " WHERE test_parcels.id = new.id AND test_parcels.id = ANY($1)"
    )
    assert (
        statements(Stop)
        .update(["city"])
        .endswith(
            " WHERE test_stops.parcel_id = new.parcel_id AND test_stops.number = new.number"
            " AND test_stops.parcel_id = ANY($1)"
        )
    )


def test_a_row_has_defaults_and_is_not_validated() -> None:
    parcel = Parcel(id=UUID(int=1), owner=UUID(int=2))
    assert (parcel.price, parcel.note, parcel.version) == (5, None, 1)
    parcel.price += 1
    assert parcel.price == 6


def test_an_attribute_is_a_column_on_the_class_and_a_value_on_a_row() -> None:
    query = str(select(Parcel.id).where(col(Parcel.price) > 1))
    assert "SELECT test_parcels.id" in query
    assert "test_parcels.price > " in query
    parcel = Parcel(id=UUID(int=1), owner=UUID(int=2), price=7)
    vars(parcel)["price"] = 8  # without SQLAlchemy
    assert parcel.price == 8
    assert not hasattr(vars(Parcel)["price"], "__set__"), (
        "a data descriptor would precede the row's value"
    )


def test_a_row_from_a_record_can_be_changed_and_written() -> None:
    record = {"id": UUID(int=1), "owner": UUID(int=2), "price": 7, "note": "x", "version": 3}
    parcel = from_record(Parcel, record)
    parcel.price = 8
    assert arrays([parcel, from_record(Parcel, record)], ["id", "price"]) == [
        [UUID(int=1), UUID(int=1)],
        [8, 7],
    ]
