"""Users and key pairs, with their rules and refusals."""

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Self
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlmodel import Field, String

from chassis.database.tables import Table
from chassis.messaging.snapshot import Snapshot
from chassis.web.auth import Role, SigningKey
from chassis.web.problems import Problem, Unauthorized
from events.users import (
    Locale,
    PublicKey,
    SigningKeyPublished,
    UserRegistered,
    UserState,
    UserUpdated,
)

KEY_LIFETIME: Final = timedelta(days=30)

KEY_RENEWAL: Final = timedelta(days=7)
"""A key with less time left gets a successor, which every service knows long before it is first used."""

TOKEN_LIFETIME: Final = timedelta(hours=1)


class EmailTaken(Problem, status=409, reason="email_taken"):
    """This e-mail address belongs to another user."""


class InvalidCredentials(Unauthorized, reason="invalid_credentials"):
    """The e-mail address or the password is wrong."""


class WrongPassword(Problem, status=403, reason="wrong_password"):
    """The old password is wrong."""


class Profile(NamedTuple):
    """What users tell about themselves, and may change."""

    email: str
    name: str
    locale: Locale


class User(Table, table=True):
    """A person who can sign in. The e-mail address is lower-case and belongs to one user only."""

    __tablename__ = "users"

    id: UUID = Field(primary_key=True)
    email: str = Field(unique=True)
    password_hash: str
    name: str
    locale: Locale = Field(sa_type=String)
    role: Role = Field(sa_type=String)
    version: int = 1
    created_at: datetime
    updated_at: datetime

    @classmethod
    def register(
        cls,
        id: UUID,
        profile: Profile,
        password_hash: str,
        role: Role,
        now: datetime,
    ) -> Self:
        """A new user."""
        return cls(
            id=id,
            password_hash=password_hash,
            role=role,
            created_at=now,
            updated_at=now,
            **profile._asdict(),
        )

    def change(self, changes: Mapping[str, str], now: datetime) -> bool:
        """Change fields of the profile. Returns whether anything changed."""
        if changes.items() <= vars(self).items():
            return False
        vars(self).update(changes, updated_at=now, version=self.version + 1)
        return True

    def state(self) -> UserState:
        """The user for events."""
        return UserState(**vars(self))

    def history(self) -> list[UserRegistered | UserUpdated]:
        """What has been published about the user, with the state of now: former ones are in no table."""
        state = self.state()
        updated = [UserUpdated(user=state)] if self.version > 1 else []
        return [UserRegistered(user=state), *updated]


class KeyPair(Table, table=True):
    """A key pair with which this service signs tokens. The private key never leaves this service."""

    __tablename__ = "key_pairs"

    key_id: str = Field(primary_key=True)
    private_key: bytes
    """The 32 bytes of an Ed25519 private key (RFC 8032)."""
    valid_until: datetime
    published_at: datetime
    """When SigningKeyPublished was last published for it."""

    @classmethod
    def generate(cls, id: UUID, private_key: Ed25519PrivateKey, now: datetime) -> Self:
        """A new pair."""
        return cls(
            key_id=str(id),
            private_key=private_key.private_bytes_raw(),
            valid_until=now + KEY_LIFETIME,
            published_at=now,
        )

    def lasts(self, span: timedelta, now: datetime) -> bool:
        """Whether it stays valid for a span of time."""
        return self.valid_until >= now + span

    def signing_key(self) -> Ed25519PrivateKey:
        """The private key."""
        return Ed25519PrivateKey.from_private_bytes(self.private_key)

    def public_key(self) -> PublicKey:
        """The public key, as it is published."""
        raw = self.signing_key().public_key().public_bytes_raw()
        return PublicKey(x=base64.urlsafe_b64encode(raw).rstrip(b"=").decode())

    def published(self) -> SigningKeyPublished:
        """The event that publishes the public key."""
        return SigningKeyPublished(
            key_id=self.key_id, jwk=self.public_key(), valid_until=self.valid_until
        )

    def known(self) -> SigningKey:
        """The row with which this service verifies tokens, as every service does."""
        return SigningKey(key_id=self.key_id, x=self.public_key().x, valid_until=self.valid_until)

    def history(self) -> list[SigningKeyPublished]:
        """What has been published about the pair."""
        return [self.published()]


SNAPSHOTS: Final = (
    Snapshot(User, User.history, (UserRegistered, UserUpdated), changed_at="updated_at"),
    Snapshot(KeyPair, KeyPair.history, (SigningKeyPublished,), changed_at="published_at"),
)
