"""The HTTP API of notifications."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response
from sqlmodel import col, select

from apps.notifications import use_cases
from apps.notifications.models import Notification
from apps.notifications.schemas import (
    AcceptedView,
    MessageBody,
    NotificationQuery,
    NotificationView,
)
from apps.notifications.use_cases import SendMessage
from chassis.web.auth import CurrentUser, operator
from chassis.web.commands import UserCommands, located
from chassis.web.dependencies import ReadDatabase
from chassis.web.operators import ActingOperator
from chassis.web.pagination import Page, page_of
from chassis.web.problems import (
    Forbidden,
    Invalid,
    KeyReused,
    NotFound,
    Unauthorized,
    Unavailable,
    documented,
)
from chassis.web.routing import StrictRoute

router = APIRouter(prefix="/notification", tags=["notifications"], route_class=StrictRoute)

READING = documented(Unauthorized, NotFound, Invalid)

NotificationId = Annotated[UUID, Path(alias="notificationId")]


@router.post(
    "/send",
    status_code=202,
    response_model=AcceptedView,
    responses=documented(Unauthorized, Forbidden, Invalid, KeyReused, Unavailable) | located(202),
    dependencies=[Depends(operator)],
)
async def send_message(
    body: MessageBody, commands: UserCommands, by_operator: ActingOperator
) -> Response:
    """Send a message to a user; operators only. It waits for a user who is not known yet."""
    command = SendMessage(body.user_id, body.subject, body.body, commands.cause, by_operator)
    return await commands.execute(
        use_cases.send_messages,
        command,
        AcceptedView.model_validate,
        body=body,
        status=202,
        location=lambda notification: f"/notification/{notification.id}",
    )


@router.get("/{notificationId}", responses=READING)
async def view_notification(
    notification_id: NotificationId, user: CurrentUser, database: ReadDatabase
) -> NotificationView:
    """A notification as it is now."""
    async with database.reading() as session:
        notification: Notification | None = await session.get(Notification, notification_id)
    if notification is None or not user.may_see(notification.user_id):
        raise NotFound("There is no such notification.")
    return NotificationView.of(notification)


@router.get("", responses=READING)
async def list_notifications(
    query: Annotated[NotificationQuery, Query()], user: CurrentUser, database: ReadDatabase
) -> Page[NotificationView]:
    """Your notifications, newest first; an operator sees everybody's. Another user's `userId` is not found."""
    if query.user_id is not None and not user.may_see(query.user_id):
        raise NotFound("There is no such user.")
    wanted = query.model_dump(exclude={"cursor", "limit"}, exclude_none=True)
    if not user.sees_all:
        wanted["user_id"] = user.id
    statement = select(Notification).filter_by(**wanted)
    statement = statement.order_by(col(Notification.id).desc()).limit(query.limit + 1)
    if (before := query.before()) is not None:
        statement = statement.where(Notification.id < before)
    async with database.reading() as session:
        rows = (await session.exec(statement)).all()
    return page_of(rows, query.limit, NotificationView.of)
