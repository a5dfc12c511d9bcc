"""Money: an integer count of minor units (cents) in Python and SQL, a decimal string ("150.00") in JSON.

No arithmetic uses floats. A JSON number in a request is parsed as a `Decimal`; one that arrives as a float is
read through its shortest decimal form: exact for amounts up to `MAX_AMOUNT` with two places (15 significant digits).
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, PlainSerializer, Strict, ValidationInfo, WithJsonSchema

CURRENCY: Final = "EUR"
PLACES: Final = 2
MAX_AMOUNT: Final = 10 ** (12 + PLACES)
"""The largest amount that one request may carry, in minor units: 10^12 in major units."""
MAX_MONEY: Final = 10 ** (16 + PLACES) - 1
"""The largest amount that every reader of a published event takes, in minor units. None can be written above it."""

_TEXT = re.compile(r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,2})?", re.ASCII)
_PATTERN = r"^(0\.0[1-9]|0\.[1-9][0-9]?|[1-9][0-9]{0,11}(\.[0-9]{1,2})?|1000000000000(\.0{1,2})?)$"
_SIGNED_PATTERN = r"^-?(0|[1-9][0-9]{0,15})\.[0-9]{2}$"


def to_text(minor: int) -> str:
    """Format minor units as a decimal with two places: 15000 -> "150.00"."""
    return str(Decimal(minor).scaleb(-PLACES))


def to_minor(text: str) -> int:
    """Parse a decimal of at most two places as minor units: "150.5" -> 15050.

    Raises ValueError for everything else: an exponent, more than two places, NaN.
    """
    if not _TEXT.fullmatch(text):
        raise ValueError("must be a decimal number with at most two places")
    return int(Decimal(text).scaleb(PLACES))


def _read_state(value: Any, info: ValidationInfo) -> Any:
    """Validate money in an event: a decimal string in JSON, a count of minor units in Python."""
    if isinstance(value, str):
        return to_minor(value)
    if info.mode == "json":
        raise ValueError("must be a decimal string")
    return value


def _read_amount(value: Any) -> int:
    """Validate an amount in a request: a JSON number or string, in major units, more than zero."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError("must be a number or a decimal string")
    minor = to_minor(value if isinstance(value, str) else _plain(Decimal(str(value))))
    if not 0 < minor <= MAX_AMOUNT:
        raise ValueError("must be more than 0 and at most 1000000000000.00")
    return minor


def _plain(number: Decimal) -> str:
    """Format without an exponent and without trailing zeros: 1E+2 and 100.00 become 100."""
    if not number.is_finite() or abs(number.adjusted()) >= 16:
        raise ValueError(
            "must be more than 0 and at most 1000000000000.00, with at most two places"
        )
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


Money = Annotated[
    int,
    Strict(),
    Field(ge=-MAX_MONEY, le=MAX_MONEY),
    BeforeValidator(_read_state),
    PlainSerializer(to_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": _SIGNED_PATTERN, "examples": ["150.00"]}),
]
"""An amount or balance in an event or a response, in minor units."""

Amount = Annotated[
    int,
    BeforeValidator(_read_amount),
    PlainSerializer(to_text, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": _PATTERN, "maxLength": 16},
                # Without `multipleOf`: 0.07 / 0.01 is 7.000000000000001 for validators that divide floats.
                {"type": "number", "minimum": 0.01, "maximum": 10**12},
            ],
            "description": "At least 0.01, at most 10^12. More than two decimal places are refused, in a number too.",
            "examples": ["150.00"],
        }
    ),
]
"""An amount in a request: a JSON number or string in major units, converted to minor units."""
