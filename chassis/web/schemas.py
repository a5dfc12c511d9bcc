"""The base classes of HTTP bodies: camelCase on the wire, undeclared fields refused in requests."""

from typing import Any, Final

from pydantic import AliasGenerator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

LINE_BREAKS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""All that breaks a line and so could end a header, and control characters: for a set in a regular expression."""


class Body(BaseModel):
    """The body of a request. Undeclared fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, validate_by_name=False
    )


def omitted() -> Any:
    """The default of an optional field, `Field(default_factory=omitted)`: it may be left out, and null is refused."""
    return None


class View(BaseModel):
    """The body of a response, made of a row by `model_validate`: each field of the attribute with its name.

    A field with another name than its attribute has a `validation_alias`.
    """

    model_config = ConfigDict(
        alias_generator=AliasGenerator(serialization_alias=to_camel),
        from_attributes=True,
        frozen=True,
        serialize_by_alias=True,
    )
