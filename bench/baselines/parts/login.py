"""The login of the baselines: a token without a session, as neither measures more than orders."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends
from sqlmodel import select

from apps.users.api import PasswordsDep
from apps.users.models import InvalidCredentials, User
from apps.users.schemas import LoginBody
from apps.users.tokens import KeyRing
from chassis.web.dependencies import ReadDatabase, provided


async def login(
    body: LoginBody,
    database: ReadDatabase,
    passwords: PasswordsDep,
    key_ring: Annotated[KeyRing, Depends(provided(KeyRing))],
) -> dict[str, str]:
    """Sign in."""
    async with database.reading() as session:
        user = (await session.exec(select(User).where(User.email == body.email))).first()
    if user is None or not await passwords.matches(body.password, user.password_hash):
        raise InvalidCredentials
    return {"accessToken": key_ring.token(user, datetime.now(UTC)), "userId": str(user.id)}
