"""Authentication by access tokens, verified with public keys that arrive as events; no service calls users.

A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037), valid for an hour. Every service stores the public keys of
SigningKeyPublished in its own database.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, get_args
from uuid import UUID

import jwt
import structlog
from fastapi import Depends, Path, Request
from fastapi.security import HTTPBearer
from sqlmodel import Field

from chassis.database.tables import Table, statements
from chassis.database.transaction import Pool, Transaction
from chassis.web.context import context_of
from chassis.web.dependencies import provided
from chassis.web.problems import Forbidden, NotFound, Unauthorized
from events.base import Envelope
from events.users import PublicKey, SigningKeyPublished

log = structlog.get_logger(__name__)

ISSUER: Final = "chorus/users"
AUDIENCE: Final = "chorus"
ALGORITHM: Final = "EdDSA"
REQUIRED: Final = ["iss", "aud", "exp", "iat", "sub"]
TOKEN_LIMIT: Final = 2048
"""Characters of a token; a longer one is refused without parsing it."""
LEEWAY_SECONDS: Final = 60
"""How far the clock of the issuer may be ahead, and how long a token outlasts its end by this process's clock."""
CACHED_TOKENS: Final = 20_000
RELOAD_SECONDS: Final = 0.5
"""Least time between two reads of the keys; a token with an unknown key id causes a read."""
POLL_SECONDS: Final = 2.0
"""How often the keys are read again: so long a key that was withdrawn is still accepted by a process."""

Role = Literal["user", "viewer", "operator"]
"""A viewer may see what an operator may, and change nothing."""


class InvalidToken(Unauthorized, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}):
    """A valid access token is needed."""


class SigningKey(Table, table=True):
    """The public key of a pair that tokens may be signed with, from SigningKeyPublished."""

    __tablename__ = "signing_keys"

    key_id: str = Field(primary_key=True)
    x: str
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class User:
    """The person who sends a request, as their token identifies them."""

    id: UUID
    role: Role = "user"
    until: float = field(default=math.inf, compare=False)
    """When their token is no longer accepted, in seconds since the epoch."""

    def seconds_left(self) -> float:
        """How long their token is still accepted: what a response that goes on may last."""
        return self.until - time.time()

    def may_see(self, owner: UUID) -> bool:
        """Whether this person may see what belongs to `owner`."""
        return self.id == owner or self.sees_all

    @property
    def sees_all(self) -> bool:
        """Whether this person may see what belongs to anybody."""
        return self.role != "user"


async def store_signing_keys(
    tx: Transaction, received: Sequence[Envelope[SigningKeyPublished]]
) -> None:
    """Store the keys that tokens are verified with. A key never changes, so a known id is not updated.

    Raises ValueError or jwt.PyJWTError for a malformed key.
    """
    for e in received:
        _verifying_key(e.event.jwk.x)
    await tx.insert_missing(
        [
            SigningKey(key_id=e.event.key_id, x=e.event.jwk.x, valid_until=e.event.valid_until)
            for e in received
        ]
    )


class Verifier:
    """Verifies tokens. Ed25519 takes about 100 microseconds, so a valid token is cached until it expires."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._keys: dict[str, tuple[jwt.PyJWK, datetime]] = {}
        self._loaded_at = -RELOAD_SECONDS
        self._loading: asyncio.Task[None] | None = None
        self._cached: dict[str, tuple[User, float]] = {}

    async def user(self, token: str) -> User:
        """The user whom a token identifies. Raises Unauthorized."""
        user, expires = self._cached.get(token, (None, 0.0))
        return user if user and expires > time.time() else await self._verified(token)

    async def _verified(self, token: str) -> User:
        if len(token) > TOKEN_LIMIT:
            raise InvalidToken("The token is too long.")
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid")))
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_SECONDS,
                options={"require": REQUIRED},
            )
            user = _user(claims)
        except (jwt.PyJWTError, ValueError) as error:
            raise InvalidToken(f"The token is not valid: {error}") from None
        while len(self._cached) >= CACHED_TOKENS:
            del self._cached[next(iter(self._cached))]
        self._cached[token] = (user, user.until)
        return user

    async def _key(self, key_id: str) -> jwt.PyJWK:
        if key_id not in self._keys and time.monotonic() - self._loaded_at > RELOAD_SECONDS:
            # Concurrent requests wait for the same read.
            if self._loading is None or self._loading.done():
                self._loading = asyncio.create_task(self._load_new())
            await asyncio.shield(self._loading)
        key, valid_until = self._keys.get(key_id, (None, None))
        if key is None or valid_until is None or valid_until < datetime.now(UTC):
            raise jwt.InvalidKeyError("it is signed with an unknown key")
        return key

    async def poll(self) -> None:
        """Read the keys again and again, for as long as the process runs: one may have been withdrawn."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._load()
            except Exception as error:
                # Tokens are verified with the keys that are known.
                log.warning("auth.keys_not_read", error=repr(error))

    async def _load(self) -> None:
        records = await self._pool.fetch(statements(SigningKey).where("true"))
        keys: dict[str, tuple[jwt.PyJWK, datetime]] = {}
        for record in records:
            try:
                keys[record["key_id"]] = _verifying_key(record["x"]), record["valid_until"]
            except (ValueError, jwt.PyJWTError) as error:  # it must not stop the others
                log.warning("auth.malformed_key", key_id=record["key_id"], error=repr(error))
        if self._keys.keys() - keys.keys():
            self._cached.clear()  # tokens that are signed with a key that was withdrawn
        self._keys = keys

    async def _load_new(self) -> None:
        await self._load()
        self._loaded_at = time.monotonic()


def _verifying_key(x: str) -> jwt.PyJWK:
    """The key of a public key's `x`. Raises ValueError or jwt.PyJWTError if it is malformed."""
    return jwt.PyJWK(PublicKey(x=x).model_dump(), ALGORITHM)


def _user(claims: dict[str, Any]) -> User:
    role = claims.get("role", "user")
    if role not in get_args(Role):
        raise ValueError("its role is unknown")
    return User(UUID(claims["sub"]), role, float(claims["exp"]) + LEEWAY_SECONDS)


async def authenticate(request: Request, verifier: Verifier) -> User:
    """The user who sends a request. Raises Unauthorized."""
    header = context_of(request).headers.get(b"authorization", b"")
    scheme, _, token = header.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("Send `Authorization: Bearer <accessToken>`.")
    return await verifier.user(token.strip())


class Bearer(HTTPBearer):
    """The security scheme in OpenAPI, and the verification of the token."""

    async def __call__(  # type: ignore[override]
        self, request: Request, verifier: Annotated[Verifier, Depends(provided(Verifier))]
    ) -> User:
        """The user who sends a request. Raises Unauthorized."""
        return await authenticate(request, verifier)


CurrentUser = Annotated[
    User,
    Depends(Bearer(bearerFormat="JWT", description="The `accessToken` of `POST /user/login`.")),
]


async def operator(user: CurrentUser) -> User:
    """The operator who sends a request. Raises Forbidden for other users."""
    if user.role != "operator":
        raise Forbidden("Only an operator may do this.")
    return user


async def owner(user_id: Annotated[UUID, Path(alias="userId")], user: CurrentUser) -> UUID:
    """The `userId` of a path. Raises NotFound if the sender may not see this user, as for a user who does not exist."""
    if not user.may_see(user_id):
        raise NotFound("There is no such user.")
    return user_id


OwnerId = Annotated[UUID, Depends(owner)]
