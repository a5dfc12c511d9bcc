"""The use cases of users. Each takes a transaction and a list, and returns the results in the same order."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.users.models import (
    KEY_RENEWAL,
    EmailTaken,
    InvalidCredentials,
    KeyPair,
    Profile,
    User,
)
from apps.users.sessions import InvalidRefreshToken, RefreshToken, Session
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Transaction
from chassis.web.auth import Role
from chassis.web.operators import OperatorAction
from chassis.web.problems import NotFound
from events.base import ByOperator, Causation
from events.users import UserRegistered, UserUpdated

KEYS_LOCK: Final = "hashtext('key_pairs'), 0"
"""The advisory lock for making key pairs. Those of e-mail addresses have one number, this one has two."""

PURGE_SESSIONS: Final = """
DELETE FROM sessions WHERE family = ANY(ARRAY(
    SELECT family FROM sessions WHERE expires_at <= $1 LIMIT 100 FOR UPDATE SKIP LOCKED))
"""
END_SESSIONS: Final = (
    "DELETE FROM sessions WHERE family = ANY($1::bytea[]) OR user_id = ANY($2::uuid[])"
)


@dataclass(frozen=True, slots=True)
class RegisterUser:
    """Register a user."""

    profile: Profile
    password_hash: str
    cause: Causation
    role: Role = "user"


@dataclass(frozen=True, slots=True)
class ChangeUser:
    """Change these fields of a profile."""

    user_id: UUID
    changes: Mapping[str, str]
    cause: Causation
    by_operator: ByOperator | None = None


@dataclass(frozen=True, slots=True)
class StartSession:
    """Sign in a user whose password matched `password_hash`; `new_hash` replaces it and ends their other sessions."""

    user_id: UUID
    password_hash: str
    token: RefreshToken
    new_hash: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshSession:
    """Replace a refresh token by its successor."""

    presented: RefreshToken
    successor: RefreshToken


@dataclass(frozen=True, slots=True)
class EndSession:
    """End the session of a refresh token, or all of its user."""

    presented: RefreshToken
    everywhere: bool


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A user, and the refresh token that prolongs their session."""

    user: User
    token: RefreshToken


@dataclass(frozen=True, slots=True)
class RotateKeys:
    """Ensure a key with enough time left. Keys last published longer than `publish_after` ago are published again."""

    publish_after: timedelta
    cause: Causation


async def register_users(
    tx: Transaction, commands: Sequence[RegisterUser]
) -> list[User | EmailTaken]:
    """Register users; of several with one e-mail address the first wins."""
    await _claim(tx, [command.profile.email for command in commands])
    users = [
        User.register(tx.new_id(), command.profile, command.password_hash, command.role, tx.now)
        for command in commands
    ]
    new = await tx.insert_new(users)
    results: list[User | EmailTaken] = []
    for user, command in zip(users, commands, strict=True):
        if user.id in new:
            tx.publish(UserRegistered(user=user.state()), command.cause)
        results.append(user if user.id in new else EmailTaken())
    return results


async def change_users(
    tx: Transaction, commands: Sequence[ChangeUser]
) -> list[User | NotFound | EmailTaken]:
    """Change users, in the order of arrival. A change without effect makes no version and no event.

    An e-mail address that a user gives up can be taken from the next transaction on.
    """
    users = await tx.lock(User, [command.user_id for command in commands])
    wanted = {email for command in commands if (email := command.changes.get("email"))}
    await _claim(tx, wanted)
    holders = {email: user.id for email, user in (await tx.load(User, wanted, key="email")).items()}
    results: list[User | NotFound | EmailTaken] = []
    changed: dict[UUID, User] = {}
    actions: list[OperatorAction] = []
    for command in commands:
        user, email = users.get(command.user_id), command.changes.get("email")
        if user is None:
            results.append(NotFound("There is no such user."))
        elif email and holders.setdefault(email, user.id) != user.id:
            results.append(EmailTaken())
        else:
            if user.change(command.changes, tx.now):
                changed[user.id] = user
                tx.publish(UserUpdated(user=user.state()), command.cause)
                flow = command.cause.correlation_id
                actions += OperatorAction.of(tx, command.by_operator, "change", user.id, flow)
            results.append(user.snapshot())  # the next command may change the row again
    await tx.update(list(changed.values()), *Profile._fields, "version", "updated_at")
    await tx.insert(actions)
    return results


async def start_sessions(
    tx: Transaction, commands: Sequence[StartSession]
) -> list[SignedIn | InvalidCredentials]:
    """Start sessions, unless the password has been changed since it was checked. Removes some that have expired."""
    users = await tx.lock(User, [command.user_id for command in commands])
    await tx.execute(PURGE_SESSIONS, tx.now)
    results: list[SignedIn | InvalidCredentials] = []
    started: dict[UUID, list[Session]] = {}
    changed: set[UUID] = set()
    for command in commands:
        user = users.get(command.user_id)
        # The new hash is stored already if the commit of a first execution was not answered.
        if user is None or user.password_hash not in (command.password_hash, command.new_hash):
            results.append(InvalidCredentials())
            continue
        if command.new_hash is not None:
            user.password_hash = command.new_hash
            changed.add(user.id)
            started.pop(user.id, None)
        session = Session.start(user.id, command.token, tx.now)
        started.setdefault(user.id, []).append(session)
        results.append(SignedIn(user.snapshot(), command.token))
    if changed:
        await tx.execute(END_SESSIONS, [], list(changed))
        await tx.update([users[id] for id in changed], "password_hash")
    await tx.insert_missing([one for sessions in started.values() for one in sessions])
    return results


async def refresh_sessions(
    tx: Transaction, commands: Sequence[RefreshSession]
) -> list[SignedIn | InvalidRefreshToken]:
    """Rotate refresh tokens. One that was replaced before ends its session: two parties have had it."""
    sessions, users = await _lock_sessions(tx, [command.presented for command in commands])
    results: list[SignedIn | InvalidRefreshToken] = []
    ended: set[bytes] = set()
    for command in commands:
        session = sessions.get(command.presented.key)
        if session is None or session.family in ended:
            results.append(InvalidRefreshToken())
        elif session.accepts(command.presented, tx.now):
            session.rotate(command.presented, command.successor, tx.now)
            results.append(SignedIn(users[session.user_id], command.successor))
        else:
            ended.add(session.family)
            results.append(InvalidRefreshToken())
    if ended:
        await tx.execute(END_SESSIONS, list(ended), [])
    kept = [session for session in sessions.values() if session.family not in ended]
    await tx.update(kept, "token", "previous", "rotated_at")
    return results


async def end_sessions(tx: Transaction, commands: Sequence[EndSession]) -> list[EndSession]:
    """End sessions. A token that is not accepted any more ends no other session than its own."""
    sessions, _ = await _lock_sessions(tx, [command.presented for command in commands])
    ended, everywhere = list(sessions), []
    for command in commands:
        session = sessions.get(command.presented.key)
        if session and command.everywhere and session.accepts(command.presented, tx.now):
            everywhere.append(session.user_id)
    await tx.execute(END_SESSIONS, ended, everywhere)
    return list(commands)


async def _lock_sessions(
    tx: Transaction, tokens: Sequence[RefreshToken]
) -> tuple[dict[bytes, Session], dict[UUID, User]]:
    """The sessions of tokens, and their users, whose locks guard them."""
    keys = [token.key for token in tokens]
    found = await tx.load(Session, keys)
    users = await tx.lock(User, [session.user_id for session in found.values()])
    return await tx.lock(Session, found), users


async def rotate_keys(tx: Transaction, commands: Sequence[RotateKeys]) -> list[list[KeyPair]]:
    """The valid key pairs, including one with enough time left; concurrent replicas make only one."""
    await tx.execute(f"SELECT pg_advisory_xact_lock({KEYS_LOCK})")
    await tx.execute("DELETE FROM key_pairs WHERE valid_until <= $1", tx.now)
    records = await tx.fetch(statements(KeyPair).where("true"))
    pairs = [from_record(KeyPair, record) for record in records]
    results = []
    for command in commands:
        due = [pair for pair in pairs if pair.published_at <= tx.now - command.publish_after]
        if not any(pair.lasts(KEY_RENEWAL, tx.now) for pair in pairs):
            made = KeyPair.generate(tx.new_id(), Ed25519PrivateKey.generate(), tx.now)
            await tx.insert([made])
            await tx.insert_missing([made.known()])
            pairs.append(made)
            due.append(made)
        for pair in due:
            pair.published_at = tx.now
            tx.publish(pair.published(), command.cause)
        await tx.update(due, "published_at")
        results.append(list(pairs))
    return results


async def _claim(tx: Transaction, emails: Iterable[str]) -> None:
    """Lock these addresses until the end of the transaction.

    Rows are locked before addresses, and addresses in order, so that transactions never deadlock. The unique index
    alone would fail a whole batch, where a lock leads to the refusal of one command.
    """
    numbers = sorted({_number(email) for email in emails})
    await tx.execute(
        "SELECT pg_advisory_xact_lock(number) FROM unnest($1::bigint[]) AS number", numbers
    )


def _number(email: str) -> int:
    digest = hashlib.blake2b(email.encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
