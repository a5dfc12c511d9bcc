"""The use cases of users. Each takes a transaction and a list, and returns the results in the same order."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.users.models import KEY_RENEWAL, EmailTaken, KeyPair, Profile, User
from chassis.database.tables import from_record, statements
from chassis.database.transaction import Transaction
from chassis.web.auth import Role
from chassis.web.problems import NotFound
from events.base import Causation
from events.users import UserRegistered, UserUpdated

KEYS_LOCK: Final = "hashtext('key_pairs'), 0"
"""The advisory lock for making key pairs. Those of e-mail addresses have one number, this one has two."""


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
            results.append(user.snapshot())  # the next command may change the row again
    await tx.update(list(changed.values()), *Profile._fields, "version", "updated_at")
    return results


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
