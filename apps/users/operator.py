"""The first operator, created at start from the settings."""

import structlog
from pydantic import ValidationError
from sqlmodel import select
from uuid_utils.compat import uuid7

from apps.users import use_cases
from apps.users.models import EmailTaken, User
from apps.users.passwords import Passwords
from apps.users.schemas import RegisterBody
from apps.users.use_cases import RegisterUser
from chassis.database.group_commit import GroupCommitter
from chassis.runtime.service import Service
from chassis.runtime.settings import Settings
from events.base import Causation

log = structlog.get_logger(__name__)


def configured_operator(settings: Settings) -> RegisterBody | None:
    """The operator in the settings; None without one. Raises ValueError if the settings are not valid."""
    password = settings.operator_password
    if settings.operator_email is None and password is None:
        return None
    if settings.operator_email is None or password is None:
        raise ValueError("CHORUS_OPERATOR_EMAIL and CHORUS_OPERATOR_PASSWORD go together")
    fields = {
        "email": settings.operator_email,
        "password": password.get_secret_value(),
        "name": "Operator",
    }
    try:
        return RegisterBody.model_validate(fields)
    except ValidationError as error:
        # Without the value, which may be the password.
        wrong = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(
            f"CHORUS_OPERATOR_{wrong['loc'][0]!s}".upper() + f": {wrong['msg']}"
        ) from None


async def create_operator(service: Service, passwords: Passwords, operator: RegisterBody) -> None:
    """Create an operator, unless a user with their address exists."""
    async with service.database.reading() as session:
        found = (await session.exec(select(User).where(User.email == operator.email))).first()
    if found is None:
        committer: GroupCommitter[RegisterUser, User | EmailTaken] = GroupCommitter(
            service.database.pool,
            use_cases.register_users,
            name="users.create_operator",
            on_commit=[service.relay.committed],
        )
        password_hash = await passwords.hash(operator.password)
        cause = Causation(str(uuid7()))
        command = RegisterUser(operator.profile(), password_hash, cause, role="operator")
        made = await committer.submit(command)
        if isinstance(made, User):
            log.info("users.operator_created", user_id=str(made.id))
    elif found.role != "operator":
        log.warning("users.operator_email_is_a_users", user_id=str(found.id))
