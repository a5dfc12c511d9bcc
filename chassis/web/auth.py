"""Who is asking: access tokens, checked with keys that arrive as events. No service calls users to check one.

A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037), valid for an hour. Every service keeps the public keys
that SigningKeyPublished told it of, in its own database.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import jwt
from fastapi import Depends, Path, Request
from fastapi.security import HTTPBearer
from sqlmodel import Field

from chassis.database.tables import Table, statements
from chassis.database.transaction import Pool, Transaction
from chassis.web.problems import Forbidden, NotFound, Unauthorized
from events.base import Envelope
from events.users import PublicKey, SigningKeyPublished

ISSUER: Final = "chorus/users"
AUDIENCE: Final = "chorus"
ALGORITHM: Final = "EdDSA"
REQUIRED: Final = ["iss", "aud", "exp", "iat", "sub"]
TOKEN_LIMIT: Final = 2048
"""Characters; a longer token is not even looked at."""
REMEMBERED_TOKENS: Final = 20_000
LOOK_AGAIN_SECONDS: Final = 0.5

Role = Literal["user", "operator"]


class SigningKey(Table, table=True):
    """A key that tokens may be signed with, as SigningKeyPublished told."""

    __tablename__ = "signing_keys"

    key_id: str = Field(primary_key=True)
    x: str
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class User:
    """The person behind a request, as the token tells."""

    id: UUID
    role: Role = "user"

    def may_see(self, owner: UUID) -> bool:
        """Whether this person may see what belongs to `owner`."""
        return self.id == owner or self.role == "operator"


async def remember_signing_keys(
    tx: Transaction, received: Sequence[Envelope[SigningKeyPublished]]
) -> None:
    """Keep the keys that users publishes. A key never changes, so the first word stands."""
    await tx.insert_missing(
        [
            SigningKey(key_id=e.event.key_id, x=e.event.jwk.x, valid_until=e.event.valid_until)
            for e in received
        ]
    )


class Verifier:
    """Checks tokens; an Ed25519 check takes about 100 microseconds, so a valid token is remembered until it expires."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._keys: dict[str, tuple[jwt.PyJWK, datetime]] = {}
        self._looked_at = -LOOK_AGAIN_SECONDS
        self._looking: asyncio.Task[None] | None = None
        self._known: dict[str, tuple[User, float]] = {}

    async def user(self, token: str) -> User:
        """The user that a token speaks for. Raises Unauthorized."""
        known = self._known.get(token)
        if known and known[1] > time.time():
            return known[0]
        if len(token) > TOKEN_LIMIT:
            raise Unauthorized("The token is too long.")
        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid")))
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": REQUIRED},
            )
            user = _user(claims)
        except (jwt.PyJWTError, ValueError) as error:
            raise Unauthorized(f"The token is not valid: {error}") from None
        self._remember(token, user, float(claims["exp"]))
        return user

    def _remember(self, token: str, user: User, expires: float) -> None:
        self._known.pop(token, None)
        while len(self._known) >= REMEMBERED_TOKENS:
            del self._known[next(iter(self._known))]
        self._known[token] = (user, expires)

    async def _key(self, key_id: str) -> jwt.PyJWK:
        if key_id not in self._keys and time.monotonic() - self._looked_at > LOOK_AGAIN_SECONDS:
            # Whoever comes while the keys are being read waits for them, too.
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
            await asyncio.shield(self._looking)
        key, valid_until = self._keys.get(key_id, (None, None))
        if key is None or valid_until is None or valid_until < datetime.now(UTC):
            raise jwt.InvalidKeyError("it is signed with an unknown key")
        return key

    async def _look(self) -> None:
        records = await self._pool.fetch(statements(SigningKey).where("true"))
        self._keys = {r["key_id"]: (_jwk(r["x"]), r["valid_until"]) for r in records}
        self._looked_at = time.monotonic()


def _jwk(x: str) -> jwt.PyJWK:
    return jwt.PyJWK(PublicKey(x=x).model_dump(), algorithm=ALGORITHM)


def _user(claims: dict[str, Any]) -> User:
    role = claims.get("role", "user")
    if role not in ("user", "operator"):
        raise ValueError("its role is unknown")
    return User(UUID(claims["sub"]), role)


class Bearer(HTTPBearer):
    """The security scheme of OpenAPI, and the check of the token in one step."""

    async def __call__(self, request: Request) -> User:  # type: ignore[override]
        """The user behind a request. Raises Unauthorized."""
        sent: bytes = request.scope["chorus.headers"].get(b"authorization", b"")
        scheme, _, token = sent.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("Send `Authorization: Bearer <accessToken>`.")
        verifier: Verifier = request.app.state.service.verifier
        return await verifier.user(token.strip())


CurrentUser = Annotated[
    User,
    Depends(Bearer(bearerFormat="JWT", description="The `accessToken` of `POST /user/login`.")),
]


async def operator(user: CurrentUser) -> User:
    """The operator behind a request. Raises Forbidden for anybody else."""
    if user.role != "operator":
        raise Forbidden("Only an operator may do this.")
    return user


async def owner(user_id: Annotated[UUID, Path(alias="userId")], user: CurrentUser) -> UUID:
    """The `userId` of a path that the person behind the request may see; others answer like missing ones."""
    if not user.may_see(user_id):
        raise NotFound("There is no such user.")
    return user_id


OwnerId = Annotated[UUID, Depends(owner)]
