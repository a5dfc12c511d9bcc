"""Pages of lists, newest first, with a cursor to the next page."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import ConfigDict, Field

from chassis.web.schemas import Body, View

Row = TypeVar("Row")
Item = TypeVar("Item", bound=View)


class Page(View, Generic[Item]):
    """One page of a list, newest first. `next_cursor` leads to older items; None at the end."""

    model_config = ConfigDict(
        json_schema_extra={
            "description": "One page of a list, newest first. `nextCursor` leads to older items; null at the end."
        }
    )

    items: list[Item]
    next_cursor: str | None = Field(None, examples=[None])


class PageQuery(Body):
    """The query of a list, whose cursor is the id of the last item. A service's filters derive from it."""

    cursor: str | None = Field(
        None, pattern=r"^[0-9a-f]{32}$", description="`nextCursor` of the previous page."
    )
    limit: int = Field(50, ge=1, le=200, description="Items on the page.")

    def before(self) -> UUID | None:
        """The id below which the page begins; None for the first page."""
        return None if self.cursor is None else UUID(hex=self.cursor)


def page_of(
    rows: Sequence[Row],
    limit: int,
    view: Callable[[Row], Item],
    cursor: Callable[[Any], str] = lambda row: row.id.hex,
) -> Page[Item]:
    """The page made of `limit + 1` rows, read newest first; fewer rows are the last page."""
    items = [view(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=cursor(rows[limit - 1]) if len(rows) > limit else None)
