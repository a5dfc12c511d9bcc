"""The base of HTTP bodies: camelCase, unknown fields refused in requests; pages with cursors."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Body(BaseModel):
    """A request's body. Fields that are not declared are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, validate_by_name=False
    )


class View(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(
        alias_generator=to_camel, frozen=True, validate_by_name=True, serialize_by_alias=True
    )


Item = TypeVar("Item", bound=View)


class Page(View, Generic[Item]):
    """A part of a list, newest first. `next_cursor` leads to what is older; None at the end."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "A part of a list, newest first. `nextCursor` leads to what is older; null at the end."
        }
    )

    items: list[Item]
    next_cursor: str | None = Field(None, examples=[None])


class PageQuery(BaseModel):
    """The query of a list. A service's own filters derive from it."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=False)

    cursor: str | None = Field(
        None, pattern=r"^[0-9a-f]{32}$", description="`nextCursor` of the page before."
    )
    limit: int = Field(50, ge=1, le=200, description="Items on the page.")

    def before(self) -> UUID | None:
        """The id that a list by id goes on after."""
        return None if self.cursor is None else UUID(hex=self.cursor)


def page_of(rows: Sequence[Any], limit: int, view: Any) -> tuple[list[Any], str | None]:
    """Split `limit + 1` rows, read newest first, into the page's items and its next cursor."""
    shown = rows[:limit]
    return [view(row) for row in shown], shown[-1].id.hex if len(rows) > limit else None
