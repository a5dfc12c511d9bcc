"""What routes declare for the OpenAPI document. `tools/documents` makes the document from it, once per release."""

from operator import attrgetter
from typing import Any, Final

from chassis.web.problems import (
    ContentTooLarge,
    Fault,
    Invalid,
    Unavailable,
    UnsupportedMediaType,
    documented,
)

EVERYWHERE: Final = documented(ContentTooLarge, UnsupportedMediaType, Invalid, Fault, Unavailable)
"""The responses that every route may return."""


def located(status: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` entry of a route whose response has a `Location` header."""
    return {status: {"headers": {"Location": {"$ref": "#/components/headers/Location"}}}}


operation_id: Final = attrgetter("name")
"""The id of a route's operation: the name of its function, `create_order`."""
