"""Events of users: accounts of people, and the keys that sign access tokens."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from events.base import Event, Moment, State, Version

Locale = Literal["en", "ru"]
"""The languages of notifications."""


class UserState(State):
    """A user as other services may know them; never a password or its hash."""

    id: UUID
    email: str = Field(max_length=254)
    name: str = Field(max_length=200)
    locale: Locale
    version: Version


class PublicKey(State):
    """An Ed25519 public key as a JSON Web Key (RFC 8037)."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    x: str = Field(description="The public key, base64url without padding.")


class UserRegistered(Event, exchange="users", key="user-registered.v1", subject="user.id"):
    """A user exists and can sign in."""

    user: UserState


class UserUpdated(Event, exchange="users", key="user-updated.v1", subject="user.id"):
    """A user's name, e-mail address or locale has changed; `user` is the whole new state."""

    user: UserState


class SigningKeyPublished(
    Event, exchange="users", key="signing-key-published.v1", subject="key_id"
):
    """Access tokens may be signed with this key until `valid_until`."""

    key_id: str = Field(max_length=64)
    jwk: PublicKey
    valid_until: Moment
