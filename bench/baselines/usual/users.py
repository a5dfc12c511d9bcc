"""Users of the usual build: registers users, and publishes it."""

from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from apps.users.api import PasswordsDep, view_user
from apps.users.models import EmailTaken, User
from apps.users.schemas import RegisterBody, RegisteredView
from bench.baselines.common import cause_of, create_app
from bench.baselines.parts import keys
from bench.baselines.parts.idempotency import rendering
from bench.baselines.parts.login import login
from bench.baselines.usual.broker import broker_of, messaging
from bench.baselines.usual.session import sessions_of
from chassis.web.routing import StrictRoute
from events.users import UserRegistered

sessions = sessions_of("users")
broker = broker_of("users")

router = APIRouter(prefix="/user", route_class=StrictRoute)
router.add_api_route("/login", login, methods=["POST"])
router.add_api_route("/view/{userId}", view_user, methods=["GET"])


@router.post("/register", status_code=201)
async def register(body: RegisterBody, request: Request, passwords: PasswordsDep) -> Response:
    """Register a user."""
    password_hash = await passwords.hash(body.password)
    user = User.register(uuid7(), body.profile(), password_hash, "user", datetime.now(UTC))
    async with sessions.begin() as session:
        session.insert(user)
        session.publish(UserRegistered(user=user.state()), cause_of(request))
        try:
            await session.flush()
        except IntegrityError:
            raise EmailTaken from None
    render = rendering(RegisteredView.model_validate, 201, lambda user: f"/user/view/{user.id}")
    return render(request.scope["path"], user).response()


app = create_app(
    "users",
    [router, keys.router],
    [keys.rotating, partial(messaging, sessions=sessions, broker=broker)],
)
