"""Recipients and their notifications, over HTTP."""

from typing import Any
from uuid import UUID

from events.users import UserRegistered, UserState
from tests.support.builders import a_user
from tests.support.eventually import eventually
from tests.support.harness import RunningService

Body = dict[str, Any]

FIELDS = {
    "notificationId",
    "userId",
    "orderId",
    "kind",
    "to",
    "subject",
    "body",
    "status",
    "createdAt",
    "sentAt",
}


async def a_recipient(notifications: RunningService, **about: Any) -> UserState:
    user = a_user(**about)
    await notifications.processes(UserRegistered(user=user))
    return user


async def listed(
    notifications: RunningService, user: UserState | UUID, **filters: Any
) -> list[Body]:
    """A user's notifications as the API lists them, newest first."""
    async with notifications.http(user) as http:
        answer = await http.get("/notification", params=filters)
    assert answer.status_code == 200, answer.text
    items: list[Body] = answer.json()["items"]
    return items


async def all_sent(notifications: RunningService, user: UserState, count: int) -> list[Body]:
    """Wait until a user has so many notifications, all sent, and their events published."""

    async def sent() -> list[Body]:
        items = await listed(notifications, user)
        assert [item["status"] for item in items] == ["sent"] * count, items
        return items

    items = await eventually(sent)
    await notifications.is_quiet()
    return items
