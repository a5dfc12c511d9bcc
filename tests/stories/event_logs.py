"""What the services of a stack have written to their event logs."""

from uuid import UUID

from apps import SERVICES
from tests.stories.stack import Stack


async def logged(chorus: Stack) -> set[UUID]:
    """The ids of all events."""
    sql = "SELECT id, events FROM event_log"
    rows = [row for service in SERVICES for row in await chorus.rows(service, sql)]
    return {UUID(int=row["id"].int + n) for row in rows for n in range(row["events"])}
