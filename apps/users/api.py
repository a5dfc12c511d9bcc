"""The HTTP API of users."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlmodel import select

from apps.users import use_cases
from apps.users.limits import AttemptLimit, TooManyAttempts
from apps.users.models import EmailTaken, InvalidCredentials, User
from apps.users.passwords import Passwords
from apps.users.schemas import (
    LoginBody,
    PatchBody,
    RegisterBody,
    RegisteredView,
    TokenView,
    UserView,
)
from apps.users.tokens import KeyRing
from apps.users.use_cases import ChangeUser, RegisterUser
from chassis.web.auth import CurrentUser, OwnerId
from chassis.web.commands import KeylessCommands, located
from chassis.web.dependencies import ReadDatabase, provided
from chassis.web.problems import Invalid, NotFound, Unauthorized, Unavailable, documented
from chassis.web.routing import StrictRoute

router = APIRouter(prefix="/user", tags=["users"], route_class=StrictRoute)

PasswordsDep = Annotated[Passwords, Depends(provided(Passwords))]
LimitDep = Annotated[AttemptLimit, Depends(provided(AttemptLimit))]


@router.post(
    "/register",
    status_code=201,
    response_model=RegisteredView,
    responses=documented(EmailTaken, Invalid, TooManyAttempts, Unavailable) | located(201),
)
async def register(
    body: RegisterBody, commands: KeylessCommands, passwords: PasswordsDep, limit: LimitDep
) -> Response:
    """Register a user."""
    await limit.count("register", body.email)
    password_hash = await passwords.hash(body.password)
    command = RegisterUser(body.profile(), password_hash, commands.cause)
    return await commands.execute(
        use_cases.register_users,
        command,
        RegisteredView.model_validate,
        status=201,
        location=lambda user: f"/user/view/{user.id}",
    )


@router.post(
    "/login", responses=documented(InvalidCredentials, Invalid, TooManyAttempts, Unavailable)
)
async def login(
    body: LoginBody,
    response: Response,
    database: ReadDatabase,
    passwords: PasswordsDep,
    limit: LimitDep,
    key_ring: Annotated[KeyRing, Depends(provided(KeyRing))],
) -> TokenView:
    """Sign in. An unknown address and a wrong password get the same response after the same time."""
    passwords.require_room()
    await limit.count("login", body.email)
    async with database.reading() as session:
        user = (await session.exec(select(User).where(User.email == body.email))).first()
    matches = await passwords.matches(body.password, user.password_hash if user else None)
    if user is None or not matches:
        raise InvalidCredentials
    response.headers["Cache-Control"] = "no-store"
    return TokenView(access_token=key_ring.token(user, datetime.now(UTC)), user_id=user.id)


@router.get("/view/{userId}", responses=documented(Unauthorized, NotFound, Invalid))
async def view_user(user_id: OwnerId, database: ReadDatabase) -> UserView:
    """The current profile of a user."""
    async with database.reading() as session:
        user: User | None = await session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return UserView.model_validate(user)


@router.get("/me", responses=documented(Unauthorized, NotFound, Invalid))
async def view_me(user: CurrentUser, database: ReadDatabase) -> UserView:
    """The current profile of the user whose token it is."""
    return await view_user(user.id, database)


@router.patch(
    "/{userId}",
    response_model=UserView,
    responses=documented(Unauthorized, NotFound, EmailTaken, Invalid, Unavailable),
)
async def change_user(user_id: OwnerId, body: PatchBody, commands: KeylessCommands) -> Response:
    """Change name, e-mail address or locale. A request that changes nothing keeps the version."""
    command = ChangeUser(user_id, body.changes(), commands.cause)
    return await commands.execute(use_cases.change_users, command, UserView.model_validate)
