"""Users, for services that call each other: a registration has billing open the account.

**If billing does not respond**, the registration succeeds all the same, without a retry: billing also opens an account
at its first use.
"""

from datetime import UTC, datetime
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response
from uuid_utils.compat import uuid7

from apps.users.api import PasswordsDep, view_user
from apps.users.models import EmailTaken, User
from apps.users.schemas import RegisterBody, RegisteredView
from bench.baselines.common import cause_of, service_of
from bench.baselines.parts import sql
from bench.baselines.parts.login import login
from bench.baselines.parts.services import ServiceUnavailableError, services
from chassis.database.tables import from_record
from chassis.web.problems import NotFound
from chassis.web.routing import StrictRoute

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/user", route_class=StrictRoute)
router.add_api_route("/login", login, methods=["POST"])
router.add_api_route("/view/{userId}", view_user, methods=["GET"])
internal = APIRouter(prefix="/internal")


@router.post("/register", status_code=201)
async def register(body: RegisterBody, request: Request, passwords: PasswordsDep) -> Response:
    """Register a user, with an account."""
    password_hash = await passwords.hash(body.password)
    user = User.register(uuid7(), body.profile(), password_hash, "user", datetime.now(UTC))
    pool = service_of(request).database.pool
    if not await pool.fetchval(sql.insert(User), *sql.values(user)):
        raise EmailTaken
    try:
        await services.post("billing", f"/internal/account/{user.id}", "", cause_of(request))
    except ServiceUnavailableError as error:
        log.warning("users.account_not_opened", user_id=str(user.id), error=str(error))
    return Response(
        RegisteredView.model_validate(user).model_dump_json(),
        201,
        headers={"Location": f"/user/view/{user.id}"},
        media_type="application/json",
    )


@internal.get("/user/{user_id}")
async def view_user_state(user_id: UUID, request: Request) -> Response:
    """A user, for other services."""
    record = await service_of(request).database.pool.fetchrow(sql.select(User, "id"), user_id)
    if record is None:
        raise NotFound("There is no such user.")
    state = from_record(User, record).state()
    return Response(state.model_dump_json(), media_type="application/json")
