"""Door 1: users' HTTP routes."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response
from sqlmodel import select

from apps.users import use_cases
from apps.users.limits import count_attempt
from apps.users.models import User
from apps.users.passwords import passwords
from apps.users.problems import EmailTaken, InvalidCredentials, TooManyAttempts
from apps.users.schemas import (
    LoginBody,
    PatchBody,
    RegisterBody,
    RegisteredView,
    TokenView,
    UserView,
)
from apps.users.tokens import ring
from apps.users.use_cases import ChangeUser, RegisterUser
from chassis.web.auth import OwnerId
from chassis.web.commands import KeylessCommands
from chassis.web.openapi import located
from chassis.web.problems import Invalid, NotFound, Unauthorized, Unavailable, documented
from chassis.web.routing import StrictRoute

router = APIRouter(prefix="/user", tags=["users"], route_class=StrictRoute)


@router.post(
    "/register",
    status_code=201,
    response_model=RegisteredView,
    responses=documented(EmailTaken, Invalid, TooManyAttempts, Unavailable) | located(201),
)
async def register(body: RegisterBody, commands: KeylessCommands) -> Response:
    """Become a user."""
    await count_attempt("register", body.email)
    password_hash = await passwords.hash(body.password)
    command = RegisterUser(body.email, password_hash, body.name, body.locale, commands.cause)
    return await commands.run(
        use_cases.register_users,
        command,
        RegisteredView.of,
        status=201,
        location=lambda user: f"/user/view/{user.id}",
    )


@router.post(
    "/login", responses=documented(InvalidCredentials, Invalid, TooManyAttempts, Unavailable)
)
async def login(body: LoginBody, request: Request, response: Response) -> TokenView:
    """Sign in. An unknown address and a wrong password are answered alike, also in time."""
    passwords.require_room()
    await count_attempt("login", body.email)
    async with request.app.state.service.database.reading() as session:
        user = (await session.exec(select(User).where(User.email == body.email))).first()
    matches = await passwords.matches(body.password, user.password_hash if user else None)
    if user is None or not matches:
        raise InvalidCredentials
    response.headers["Cache-Control"] = "no-store"
    return TokenView(access_token=ring.token(user, datetime.now(UTC)))


@router.get("/view/{userId}", responses=documented(Unauthorized, NotFound, Invalid))
async def view_user(user_id: OwnerId, request: Request) -> UserView:
    """A user as he is now."""
    async with request.app.state.service.database.reading() as session:
        user: User | None = await session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return UserView.of(user)


@router.patch(
    "/{userId}",
    response_model=UserView,
    responses=documented(Unauthorized, NotFound, EmailTaken, Invalid, Unavailable),
)
async def change_user(user_id: OwnerId, body: PatchBody, commands: KeylessCommands) -> Response:
    """Change name, e-mail address or locale. What changes nothing leaves the version as it is."""
    command = ChangeUser(user_id, body.name, body.email, body.locale, commands.cause)
    return await commands.run(use_cases.change_users, command, UserView.of)
