"""The HTTP API of users."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlmodel import col, select

from apps.users import use_cases
from apps.users.limits import Attempts, TooManyAttempts
from apps.users.models import EmailTaken, InvalidCredentials, KeyPair, User, WrongPassword
from apps.users.password_rules import is_name
from apps.users.passwords import Passwords
from apps.users.schemas import (
    KeySetView,
    KeyView,
    LoginBody,
    LogoutBody,
    PasswordBody,
    PatchBody,
    RefreshBody,
    RegisterBody,
    RegisteredView,
    TokenView,
    UserView,
)
from apps.users.sessions import InvalidRefreshToken, RefreshToken
from apps.users.tokens import KeyRing
from apps.users.use_cases import (
    ChangeUser,
    EndSession,
    RefreshSession,
    RegisterUser,
    SignedIn,
    StartSession,
)
from chassis.web.auth import CurrentUser, OwnerId
from chassis.web.commands import KeylessCommands, located
from chassis.web.dependencies import ReadDatabase, provided
from chassis.web.operators import ActingOperator, ChangedOwnerId
from chassis.web.problems import Forbidden, Invalid, NotFound, Unauthorized, Unavailable, documented
from chassis.web.routing import StrictRoute
from chassis.web.schemas import View

router = APIRouter(prefix="/user", tags=["users"], route_class=StrictRoute)

PasswordsDep = Annotated[Passwords, Depends(provided(Passwords))]
AttemptsDep = Annotated[Attempts, Depends()]


class Tokens:
    """Starts and prolongs sessions, and answers with their tokens."""

    def __init__(
        self,
        commands: KeylessCommands,
        key_ring: Annotated[KeyRing, Depends(provided(KeyRing))],
    ) -> None:
        self._commands = commands
        self._key_ring = key_ring

    async def start(self, command: StartSession) -> Response:
        """The tokens of a new session."""
        return _secret(await self._commands.execute(use_cases.start_sessions, command, self._view))

    async def refresh(self, presented: RefreshToken) -> Response:
        """The next tokens of a session."""
        command = RefreshSession(presented, presented.successor())
        return _secret(
            await self._commands.execute(use_cases.refresh_sessions, command, self._view)
        )

    def _view(self, signed_in: SignedIn) -> TokenView:
        return TokenView(
            access_token=self._key_ring.token(signed_in.user, datetime.now(UTC)),
            user_id=signed_in.user.id,
            refresh_token=signed_in.token.text,
        )


TokensDep = Annotated[Tokens, Depends()]


def _secret(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response


@router.post(
    "/register",
    status_code=201,
    response_model=RegisteredView,
    responses=documented(EmailTaken, Invalid, TooManyAttempts, Unavailable) | located(201),
)
async def register(
    body: RegisterBody, commands: KeylessCommands, passwords: PasswordsDep, attempts: AttemptsDep
) -> Response:
    """Register a user."""
    await attempts.register()
    async with attempts.attempt("register", body.email) as attempt:
        password_hash = await passwords.hash(body.password, attempt.client)
        response = await commands.execute(
            use_cases.register_users,
            RegisterUser(body.profile(), password_hash, commands.cause),
            RegisteredView.model_validate,
            status=201,
            location=lambda user: f"/user/view/{user.id}",
        )
        return attempt.judge(response)


@router.post(
    "/login",
    response_model=TokenView,
    responses=documented(InvalidCredentials, Invalid, TooManyAttempts, Unavailable),
)
async def login(
    body: LoginBody,
    database: ReadDatabase,
    passwords: PasswordsDep,
    attempts: AttemptsDep,
    tokens: TokensDep,
) -> Response:
    """Sign in. An unknown address and a wrong password get the same response after the same time."""
    async with attempts.attempt("login", body.email) as attempt:
        async with database.reading() as session:
            user = (await session.exec(select(User).where(User.email == body.email))).first()
        stored = user.password_hash if user else None
        matches = await passwords.matches(body.password, stored, attempt.client)
        if user is None or not matches:
            raise InvalidCredentials
        command = StartSession(user.id, user.password_hash, RefreshToken.make())
        return attempt.judge(await tokens.start(command))


@router.post(
    "/token/refresh",
    response_model=TokenView,
    responses=documented(InvalidRefreshToken, Invalid, Unavailable),
)
async def refresh_token(body: RefreshBody, tokens: TokensDep) -> Response:
    """The next tokens of a session, for 30 days from the login on. The refresh token is replaced.

    If the answer is lost, the same token may be sent again within ten seconds. Later its use ends the session: somebody
    else may have a copy.
    """
    return await tokens.refresh(RefreshToken.parse(body.refresh_token))


@router.post(
    "/logout",
    status_code=204,
    response_class=Response,
    responses=documented(Invalid, Unavailable) | {204: {"description": "The session is over."}},
)
async def logout(body: LogoutBody, commands: KeylessCommands) -> Response:
    """End a session, or all of its user. An access token that was issued before stays valid until its end."""
    command = EndSession(RefreshToken.parse(body.refresh_token), body.everywhere)
    await commands.execute(use_cases.end_sessions, command, lambda _: View())
    return Response(status_code=204)


@router.put(
    "/password",
    response_model=TokenView,
    responses=documented(Unauthorized, WrongPassword, Invalid, TooManyAttempts, Unavailable),
)
async def change_password(
    body: PasswordBody,
    caller: CurrentUser,
    database: ReadDatabase,
    passwords: PasswordsDep,
    attempts: AttemptsDep,
    tokens: TokensDep,
) -> Response:
    """Replace your password. All your sessions end; the response begins a new one."""
    async with attempts.attempt("password", str(caller.id)) as attempt:
        async with database.reading() as session:
            user: User | None = await session.get(User, caller.id)
        stored = user.password_hash if user else None
        matches = await passwords.matches(body.old_password, stored, attempt.client)
        if user is None or not matches:
            raise WrongPassword
        if is_name(body.new_password, user.email, user.name):
            raise Invalid.at("newPassword", "must differ from name and e-mail address")
        new_hash = await passwords.hash(body.new_password, attempt.client)
        command = StartSession(user.id, user.password_hash, RefreshToken.make(), new_hash)
        return attempt.judge(await tokens.start(command))


async def view_keys(response: Response, database: ReadDatabase) -> KeySetView:
    """The public keys that access tokens are verified with (RFC 7517), for programs outside of this system."""
    async with database.reading() as session:
        keys = (await session.exec(select(KeyPair).order_by(col(KeyPair.valid_until)))).all()
    response.headers["Cache-Control"] = "public, max-age=300"
    now = datetime.now(UTC)
    return KeySetView(keys=[KeyView.of(key) for key in keys if key.lasts(timedelta(0), now)])


router.routes.append(
    StrictRoute(
        "/.well-known/jwks.json",
        view_keys,
        name="view_keys",
        methods=["GET"],
        tags=["users"],
        response_model=KeySetView,
    )
)


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
    responses=documented(
        Unauthorized, Forbidden, NotFound, EmailTaken, Invalid, TooManyAttempts, Unavailable
    ),
)
async def change_user(
    user_id: ChangedOwnerId,
    body: PatchBody,
    commands: KeylessCommands,
    by_operator: ActingOperator,
    attempts: AttemptsDep,
) -> Response:
    """Change name, e-mail address or locale. A request that changes nothing keeps the version."""
    command = ChangeUser(user_id, body.changes(), commands.cause, by_operator)
    if "email" not in command.changes:
        return await commands.execute(use_cases.change_users, command, UserView.model_validate)
    async with attempts.attempt("change", command.changes["email"]) as attempt:
        response = await commands.execute(use_cases.change_users, command, UserView.model_validate)
        return attempt.judge(response)
