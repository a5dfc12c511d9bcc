"""What users does unasked: it keeps a signing key that lasts, and makes the first operator."""

import asyncio
from datetime import timedelta
from typing import Final

import structlog
from pydantic import ValidationError
from sqlmodel import select
from uuid_utils.compat import uuid7

from apps.users import use_cases
from apps.users.models import KeyPair, User
from apps.users.passwords import passwords
from apps.users.problems import EmailTaken
from apps.users.schemas import RegisterBody
from apps.users.tokens import ring
from apps.users.use_cases import KeepKeys, RegisterUser
from chassis.database.group_commit import GroupCommitter
from chassis.runtime.service import Service
from chassis.runtime.settings import Settings
from events.base import Causation

log = structlog.get_logger(__name__)

CHECK_SECONDS: Final = 3600.0

ANNOUNCE_AFTER: Final = timedelta(days=1)
"""How often a key is announced again: the journal, which forgets, always knows all that are valid."""

AT_ONCE: Final = timedelta(0)


async def prepare(service: Service) -> None:
    """Nobody can sign in without a key. It is announced at every start, for services that are new."""
    await _keep_keys(service, AT_ONCE)
    command = wanted_operator(service.settings)
    if command is not None:
        await _make_operator(service, command)


async def keep_signing_keys(service: Service) -> None:
    """Make the next key in time, and learn which ones other replicas have made."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        await _keep_keys(service, ANNOUNCE_AFTER)


async def _keep_keys(service: Service, announce_after: timedelta) -> None:
    committer: GroupCommitter[KeepKeys, list[KeyPair]] = GroupCommitter(
        service.database.pool,
        use_cases.keep_key_pairs,
        name="users.keep_key_pairs",
        published=service.relay.wake,
    )
    pairs = await committer.submit(KeepKeys(announce_after, Causation(str(uuid7()))))
    ring.hold(pairs)
    newest = max(pairs, key=lambda pair: pair.valid_until)
    log.info("users.keys_kept", keys=len(pairs), valid_until=newest.valid_until.isoformat())


def wanted_operator(settings: Settings) -> RegisterBody | None:
    """The first operator as the settings want him. Raises ValueError for settings that make no user."""
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
        # Said without the value, which may be the password.
        wrong = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(
            f"CHORUS_OPERATOR_{wrong['loc'][0]!s}".upper() + f": {wrong['msg']}"
        ) from None


async def _make_operator(service: Service, command: RegisterBody) -> None:
    async with service.database.reading() as session:
        found = (await session.exec(select(User).where(User.email == command.email))).first()
    if found is None:
        committer: GroupCommitter[RegisterUser, User | EmailTaken] = GroupCommitter(
            service.database.pool,
            use_cases.register_users,
            name="users.make_operator",
            published=service.relay.wake,
        )
        password_hash = await passwords.hash(command.password)
        cause = Causation(str(uuid7()))
        made = await committer.submit(
            RegisterUser(
                command.email, password_hash, command.name, command.locale, cause, role="operator"
            )
        )
        if isinstance(made, User):
            log.info("users.operator_made", user_id=str(made.id))
    elif found.role != "operator":
        log.warning("users.operator_email_is_a_users", user_id=str(found.id))
