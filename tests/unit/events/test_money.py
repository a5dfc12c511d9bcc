"""Money: an integer of minor units in Python, a decimal in JSON, converted without loss."""

import json
import re
from decimal import Decimal

import jsonschema_rs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from events.money import MAX_AMOUNT, MAX_MONEY, Amount, Money, to_minor, to_text

AMOUNT: TypeAdapter[int] = TypeAdapter(Amount)
MONEY: TypeAdapter[int] = TypeAdapter(Money)

amounts = st.integers(1, MAX_AMOUNT)


class TestMoney:
    """Money in events."""

    @given(st.integers(-(10**17), 10**17))
    def test_every_balance_survives_in_an_event(self, minor: int) -> None:
        text = MONEY.dump_python(minor, mode="json")
        assert text == str(Decimal(minor).scaleb(-2).quantize(Decimal("0.01")))
        assert to_minor(text) == MONEY.validate_json(json.dumps(text)) == minor

    @given(st.integers())
    @example(MAX_MONEY)
    @example(MAX_MONEY + 1)
    @example(-MAX_MONEY - 1)
    def test_what_can_be_written_can_be_read(self, minor: int) -> None:
        try:
            MONEY.validate_python(minor)
        except ValidationError:
            assert abs(minor) > MAX_MONEY
        else:
            text = to_text(minor)
            assert MONEY.validate_json(json.dumps(text)) == minor
            assert re.fullmatch(MONEY.json_schema()["pattern"], text)

    @given(st.text("0123456789.-+eE_ ", max_size=24))
    @example("１.00")
    @example("1_000")
    @example("1\n")
    def test_a_text_is_a_plain_decimal_or_refused(self, text: str) -> None:
        try:
            minor = to_minor(text)
        except ValueError as error:
            assert str(error) == "must be a decimal number with at most two places"  # noqa: PT017
        else:
            assert Decimal(text).scaleb(2) == minor

    @pytest.mark.parametrize("body", ['"150.001"', '"1e2"', "150", "1.5", "true", "null", '"NaN"'])
    def test_in_an_event_money_is_a_decimal_string_and_nothing_else(self, body: str) -> None:
        with pytest.raises(ValidationError):
            MONEY.validate_json(body)

    def test_in_python_money_is_a_count_of_cents(self) -> None:
        assert MONEY.validate_python(15050) == 15050
        assert MONEY.validate_python("150.50") == 15050
        with pytest.raises(ValidationError):
            MONEY.validate_python(True)
        with pytest.raises(ValidationError):
            MONEY.validate_python(150.5)


class TestAmount:
    """An amount in a request."""

    @given(amounts)
    @example(1)
    @example(MAX_AMOUNT)
    @example(99_999_999_999_999)
    def test_every_amount_survives_as_a_json_number(self, minor: int) -> None:
        as_number = to_text(minor)
        assert AMOUNT.validate_json(as_number) == minor
        assert AMOUNT.validate_json(json.dumps(float(as_number))) == minor
        assert AMOUNT.validate_python(float(as_number)) == minor

    @given(amounts)
    def test_every_amount_survives_as_a_string(self, minor: int) -> None:
        assert AMOUNT.validate_python(to_text(minor)) == minor
        assert AMOUNT.validate_json(json.dumps(to_text(minor))) == minor

    @given(st.integers(1, MAX_AMOUNT // 100))
    def test_a_whole_number_needs_no_decimals(self, major: int) -> None:
        for given_as in (str(major), f'"{major}"', f"{major}.0", f'"{major}.0"', f'"{major}.00"'):
            assert AMOUNT.validate_json(given_as) == major * 100

    @given(st.integers(1, MAX_AMOUNT // 10))
    def test_one_decimal_means_tens_of_cents(self, tenths: int) -> None:
        text = f"{tenths // 10}.{tenths % 10}"
        assert AMOUNT.validate_json(text) == AMOUNT.validate_json(f'"{text}"') == tenths * 10

    @given(st.floats())
    @example(float("nan"))
    @example(float("inf"))
    @example(0.1 + 0.2)
    @example(1e300)
    @example(5e-324)
    @example(-0.0)
    def test_any_float_is_exactly_what_it_reads_as_or_refused(self, number: float) -> None:
        try:
            minor = AMOUNT.validate_python(number)
        except ValidationError:
            return
        assert Decimal(repr(number)).scaleb(2) == minor
        assert 0 < minor <= MAX_AMOUNT

    @pytest.mark.parametrize(
        "body",
        [
            "NaN", "Infinity", "-Infinity", '"NaN"', '"Infinity"',
            '"1e2"', '"1E2"', "1e400", "1e-9", '"0x10"', '"1_0"', '"１０"',
            "true", "false", "null", "[]", "{}", '[1]', '""', '" 1"', '"1 "', '"+1"', '"1."', '".5"', '"01"', '"1,50"',
            "1.001", '"1.001"', "0.001", '"0.009"',
            "10000000000000", '"10000000000000"', "1000000000000.01", '"1000000000000.01"', "1e13",
            "-1", '"-1"', "-0.01", '"-0.01"', "0", '"0"', "0.0", '"0.00"', "-0.0", '"-0"',
            "9" * 5000, '"' + "9" * 5000 + '"', '"0.' + "0" * 1_000_000 + '1"',
        ],
        ids=lambda body: body[:20],
    )  # fmt: skip
    def test_everything_else_is_refused_as_an_amount(self, body: str) -> None:
        with pytest.raises(ValidationError):
            AMOUNT.validate_json(body)

    def test_an_amount_is_serialized_as_a_string(self) -> None:
        assert AMOUNT.dump_json(5) == b'"0.05"'
        assert AMOUNT.dump_json(MAX_AMOUNT) == b'"1000000000000.00"'
        assert to_text(-1) == "-0.01"
        assert to_text(-100) == "-1.00"

    def test_the_schema_takes_the_same_cents_as_the_services(self) -> None:
        valid = jsonschema_rs.Draft202012Validator(AMOUNT.json_schema()).is_valid
        for minor in range(1, 1000_00 + 1):
            text = to_text(minor)
            for value in (text, float(text)):
                assert valid(value), value
                assert AMOUNT.validate_python(value) == minor
        for refused in (0, 0.0, 0.001, -0.01, 10**12 + 0.01, "0", "0.00", "1.001", "-1", ""):
            assert not valid(refused), refused

    def test_the_schema_leaves_no_arithmetic_to_validators(self) -> None:
        """Many divide floats for `multipleOf`: by 0.01 they refuse 11,426 of 100,000 amounts, such as 19.99."""
        assert AMOUNT.json_schema()["anyOf"][1].keys() == {"type", "minimum", "maximum"}

    def test_the_schema_of_an_amount_allows_string_and_number(self) -> None:
        schema = AMOUNT.json_schema()
        assert [way["type"] for way in schema["anyOf"]] == ["string", "number"]
        assert MONEY.json_schema()["type"] == "string"
