"""The first operator and the first viewer, created at start from the settings."""

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
from chassis.web.auth import Role
from events.base import Causation

log = structlog.get_logger(__name__)


def configured_operator(settings: Settings, role: Role = "operator") -> RegisterBody | None:
    """The operator or viewer in the settings; None without one. Raises ValueError if the settings are not valid."""
    email, password = settings.operator_email, settings.operator_password
    if role == "viewer":
        email, password = settings.viewer_email, settings.viewer_password
    name = f"CHORUS_{role.upper()}"
    if email is None and password is None:
        return None
    if email is None or password is None:
        raise ValueError(f"{name}_EMAIL and {name}_PASSWORD go together")
    fields = {"email": email, "password": password.get_secret_value(), "name": role.capitalize()}
    try:
        return RegisterBody.model_validate(fields)
    except ValidationError as error:
        # Without the value, which may be the password.
        wrong = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(
            f"{name}_{(wrong['loc'] or ('password',))[0]!s}".upper() + f": {wrong['msg']}"
        ) from None


async def create_operator(
    service: Service, passwords: Passwords, operator: RegisterBody, role: Role = "operator"
) -> None:
    """Create an operator or viewer, unless a user with their address exists."""
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
        command = RegisterUser(operator.profile(), password_hash, cause, role)
        made = await committer.submit(command)
        if isinstance(made, User):
            log.info("users.operator_created", user_id=str(made.id), role=role)
    elif found.role != role:
        log.warning("users.operator_email_is_a_users", user_id=str(found.id))
